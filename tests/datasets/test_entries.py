"""`entries` lays a working context out as LODMap does; entry targets are those of the training batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.target_merging import merged_targets
from mctrace.errors import LegalityError
from tests.context.strategies import legal_maps, light
from tests.datasets.making import trajectory_row, views_over

COLUMNS = ("entry_level", "node_index", "first_token", "span_width", "distance_to_cursor")


def laid_out(lod_map: LODMap) -> list[tuple[int, ...]]:
    entries = lod_map.entries
    columns = (
        entries.level_N, entries.index_N, entries.first_token_N, entries.span_width_N,
        entries.distance_to_cursor_N(lod_map.cursor),
    )  # fmt: skip
    return list(zip(*(column.tolist() for column in columns), strict=True))


def row_of(name: str, lod_map: LODMap, *cursors: int) -> dict:
    return trajectory_row(
        name, lod_map.levels.tolist(), [lod_map.cursor, *cursors], start=lod_map.start,
        block_size=lod_map.tree.block_size, max_level=lod_map.tree.max_level,
    )  # fmt: skip


@light
@given(maps=st.lists(legal_maps(), min_size=1, max_size=8), grown=st.integers(1, 70))
def test_entries_are_those_of_the_map(maps, grown):
    rows = [row_of(f"t{i}", lod_map, lod_map.cursor + grown) for i, lod_map in enumerate(maps)]
    connection = views_over(trajectories=rows)
    for i, head in enumerate(maps):
        for lod_map in (head, head.extended(head.cursor + grown)):
            found = connection.execute(
                f"select {', '.join(COLUMNS)} from entries where snapshot_id = ? order by entry",
                [f"t{i}:{lod_map.cursor}"],
            ).fetchall()
            assert found == laid_out(lod_map)
            (snapshot,) = fetch_rows(
                connection, "from snapshots where snapshot_id = ?", f"t{i}:{lod_map.cursor}"
            )
            assert snapshot["num_entries"] == len(found)


def test_entries_are_numbered_from_zero(store):
    rows = fetch_rows(connect(store.at()), "from entries where snapshot_id = 'ta:36' order by entry")
    assert [row["entry"] for row in rows] == list(range(15))


@pytest.mark.parametrize(
    ("target", "column"),
    [("priced", "utility_sum"), ("literal", "utility_largest"), ("value", "utility_mean")],
)
def test_entry_targets_are_those_of_the_batches(store, target, column):
    data = open_training_data(store.at(), target, utility_scale=1.0)
    connection = connect(store.at())
    for snapshot in data.snapshots("train"):
        batch = make_batch(data, [snapshot])
        rows = fetch_rows(
            connection,
            f"from entry_targets('{target}') where snapshot_id = ? order by entry",
            snapshot.snapshot_id,
        )
        np.testing.assert_allclose(
            [row[column] for row in rows], batch.target_utilities[0].numpy(), atol=1e-6
        )
        np.testing.assert_allclose(
            [row["regression_weight"] for row in rows], batch.regression_weights[0].numpy(), atol=1e-6
        )
        assert [row["action_mask"] for row in rows] == batch.action_mask[0].tolist()


def test_a_collapse_is_copied_to_its_entries_and_an_expand_to_its_one(store):
    rows = fetch_rows(
        connect(store.at()), "from entry_targets('literal') where snapshot_id = 'ta:36' order by entry"
    )
    assert [row["collapse_utility"] for row in rows] == [None] * 3 + [-0.25] * 4 + [-0.75] * 4 + [None] * 4
    assert [row["expand_utility"] for row in rows][:3] == [3.0, 0.0, None]


def test_merged_targets_by_hand():
    target_N, weight_N = merged_targets(
        np.array([0, -1, 0]), np.array([-1, 1, 1]), np.array([0.5, -0.25]), "sum", 4
    )
    assert target_N.tolist() == [0.5, -0.25, 0.25]
    assert weight_N.tolist() == [1, 0.25, 1]


def test_a_map_can_start_later_where_a_node_begins():
    tree = TreeShape(4, 2)
    lod_map = LODMap(tree, 0, 30, np.array([2, 2, 2, 2, 1, 0, 1, 0], dtype=np.uint8))
    later = lod_map.starting_at(16)
    assert laid_out(later) == laid_out(lod_map)[1:]
    for start in (4, 18, 30, -4):
        with pytest.raises(LegalityError):
            lod_map.starting_at(start)
