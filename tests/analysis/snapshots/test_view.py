"""The view of a snapshot: its spans, their text, and measured values."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from mctrace.analysis.questions.catalogue import run_analysis
from mctrace.analysis.snapshots.planned_edits import planned_edits
from mctrace.analysis.snapshots.view import SnapshotView, find_snapshots, read_snapshots
from mctrace.context.allocator import AllocatorConfig
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from tests.analysis.synthetic import BY_HAND, SCRIPT_TEXT, write_store


def read(store: Store, connection: duckdb.DuckDBPyConnection, *ids: str) -> list[SnapshotView]:
    return read_snapshots(connection, store.at(), ids, with_text=True)


@pytest.fixture
def snapshot(store: Store, connection: duckdb.DuckDBPyConnection) -> SnapshotView:
    (found,) = read(store, connection, "trajectory-a:64")
    return found


def test_spans_tile_the_context_with_their_text(snapshot: SnapshotView) -> None:
    assert [(span.level, span.index) for span in snapshot.spans] == [
        (2, 0), *((1, index) for index in range(4, 8)), *((0, index) for index in range(8, 16)),
    ]  # fmt: skip
    ends = [span.end_token for span in snapshot.spans]
    assert [span.first_token for span in snapshot.spans] == [0, *ends[:-1]]
    assert ends[-1] == 64
    assert sum(span.num_entries for span in snapshot.spans) == snapshot.lod_map.num_entries == 37
    assert "".join(span.text for span in snapshot.spans) == SCRIPT_TEXT.encode()[:64].decode()
    assert snapshot.spans[0].text == "<script>window.h"
    assert snapshot.text_problem == ""


def test_every_legal_action_has_its_measured_value(snapshot: SnapshotView) -> None:
    found = {(a.action.kind, a.action.node.level, a.action.node.index): a for a in snapshot.actions}
    expands = [("expand", 2, 0), *(("expand", 1, index) for index in range(4, 8))]
    # Blocks 14 and 15 lie in the protected tail of 8 tokens.
    collapses = [*(("collapse", 1, index) for index in range(8, 14)), ("collapse", 2, 1)]
    assert list(found) == [*expands, *collapses]
    assert all(action.positions == 3 for action in snapshot.actions)

    best = found["expand", 1, 4]
    assert best.measured is not None
    assert (best.measured.value_of_detail, best.measured.delta_nll) == (0.5, -0.5)
    assert (best.measured.inclusion_probability, best.distance_to_cursor) == (0.5, 44)
    assert best.measured.literal == 0.5
    assert best.measured.priced is not None
    assert snapshot.edit_price is not None
    assert best.measured.priced == pytest.approx(0.5 - snapshot.edit_price)
    assert snapshot.text_of(best) == "acke"
    assert found["collapse", 1, 10].measured is None  # tried and failed
    assert snapshot.text_of(found["collapse", 2, 1]) == SCRIPT_TEXT[16:32]


def test_spans_name_their_actions(snapshot: SnapshotView) -> None:
    named = [
        tuple(
            snapshot.actions[place].action if place is not None else None for place in (s.expand, s.collapse)
        )
        for s in snapshot.spans
    ]
    assert [expand.node.index if expand else None for expand, _ in named[:6]] == [0, 4, 5, 6, 7, None]
    assert named[0][1] is None  # the coarsest level
    assert {collapse for _, collapse in named[1:5]} == {snapshot.actions[-1].action}
    assert named[5][1] is not None
    assert (named[5][1].node.level, named[5][1].node.index) == (1, 8)
    assert [collapse for _, collapse in named[-2:]] == [None, None]


def test_a_later_cursor_adds_tokens_at_level_0(store: Store, connection: duckdb.DuckDBPyConnection) -> None:
    early, late = read(store, connection, "trajectory-b:64", "trajectory-b:68")
    assert (early.lod_map.cursor, late.lod_map.cursor) == (64, 68)
    assert len(late.spans) == len(early.spans) + 1
    assert len(late.actions) == len(early.actions) + 1  # block 14 has left the tail


def test_planned_edits_are_the_allocators_at_the_present_size(snapshot: SnapshotView) -> None:
    config = AllocatorConfig(expand_threshold=0.0, collapse_threshold=0.0, reversal_threshold=0.0)
    plan = planned_edits(snapshot, 0.01, config)
    for found in snapshot.actions:
        priced = found.measured.priced if found.measured else None
        assert (plan[found.action] == "unknown") == (priced is None)
        assert plan[found.action] in ("unknown", "keep", found.action.kind)
    done = [action for action, what in plan.items() if what == action.kind]
    assert sum(action.change_in_positions(snapshot.lod_map.tree) for action in done) <= 0
    assert {action.kind for action in done} == {"expand", "collapse"}
    assert set(planned_edits(snapshot, None, config).values()) == {"unknown"}


def test_planned_edits_follow_a_checkpoints_scores(snapshot: SnapshotView) -> None:
    wants_nothing = snapshot.with_scores({"net": np.zeros(37)})
    assert set(planned_edits(wants_nothing, 0.01, AllocatorConfig()).values()) == {"keep"}


def test_a_collapse_has_the_mean_score_of_its_entries(snapshot: SnapshotView) -> None:
    scores_N = np.arange(37, dtype=np.float64)
    scored = snapshot.with_scores({"net": scores_N, "other": -scores_N})
    assert scored.scorers == ["net", "other"]
    by_action = {
        (a.action.kind, a.action.node.level, a.action.node.index): a.scores["net"] for a in scored.actions
    }
    assert by_action["expand", 2, 0] == 0
    assert by_action["expand", 1, 5] == 2
    assert by_action["collapse", 2, 1] == np.mean([1, 2, 3, 4])
    assert by_action["collapse", 1, 8] == np.mean([5, 6, 7, 8])
    assert scored.actions[0].scores["other"] == 0


def test_without_a_vocabulary_only_the_text_is_missing(store: Store, tmp_path: Path) -> None:
    older = write_store(tmp_path / "older", BY_HAND, words=[])
    for of, with_text, reason in ((older, True, "does not say what the ids"), (store, False, "")):
        with connect(of.at()) as connection:
            (found,) = read_snapshots(connection, of.at(), ["trajectory-a:64"], with_text=with_text)
        assert reason in found.text_problem
        assert bool(reason) == bool(found.text_problem)
        assert {span.text for span in found.spans} == {""}
        assert len(found.actions) == 12


def test_snapshots_are_found_by_id_and_by_its_beginning(connection: duckdb.DuckDBPyConnection) -> None:
    assert find_snapshots(connection, "trajectory-a:64") == ["trajectory-a:64"]
    assert find_snapshots(connection, "trajectory-b") == ["trajectory-b:64", "trajectory-b:68"]
    assert find_snapshots(connection, "trajectory-b:68") == ["trajectory-b:68"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trajectory", "several trajectories"),
        ("nothing", "no snapshot 'nothing'"),
        ("trajectory-b:65", "cursors of trajectory-b are 64, 68"),
        ("", "several trajectories"),
    ],
)
def test_an_unknown_snapshot_is_refused_with_a_remedy(
    connection: duckdb.DuckDBPyConnection, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_snapshots(connection, name)


def test_chosen_snapshots_are_one_a_document_held_out_first(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    rows = run_analysis(connection, "snapshot_choice")
    assert [(row["snapshot_id"], row["split"]) for row in rows] == [
        ("trajectory-b:64", "test"),
        ("trajectory-a:64", "train"),
    ]
    assert [row["num_labels"] for row in rows] == [2, 8]
