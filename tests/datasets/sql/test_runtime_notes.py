"""What a live runtime noted beside its maps, and when things were measured and committed, in SQL."""

from datetime import UTC, datetime

from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import create_store
from tests.datasets.making import trajectory_row
from tests.datasets.synthetic import add_document, add_trajectory, effect

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TAKEN = [{"action": "expand", "node_level": 1, "node_index": 2}]


def test_actions_and_times_come_through_the_store(tmp_path):
    store = create_store(str(tmp_path / "store"))
    add_document(store, "a", "train", seed=1)
    noted = trajectory_row(
        "noted", [1, 1, 1, 1, 0, 0, 0, 0], [32, 36], logged_at=AT, ended_at=AT, actions_taken=TAKEN
    )
    bare = trajectory_row("bare", [1, 1, 1, 1, 0, 0, 0, 0], [32])
    store.commit(
        [
            write_part(
                store.location,
                part_id="p",
                kind="trajectory",
                run_id="run",
                tables={"trajectories": [noted, bare]},
            )
        ]
    )
    query = "select trajectory_id, cursor, logged_at, measured_at, actions_taken from snapshots order by all"
    rows = [tuple(row.values()) for row in fetch_rows(connect(store.at()), query)]
    assert rows == [
        ("bare", 32, None, None, None), ("noted", 32, AT, AT, TAKEN), ("noted", 36, AT, AT, TAKEN),
    ]  # fmt: skip


def test_a_dataset_has_the_time_of_its_commit(tmp_path):
    store = create_store(str(tmp_path / "store"))
    add_document(store, "a", "train", seed=1)
    add_trajectory(store, "t", "a", [effect("expand", 1, 5, 32, [-0.5] * 8)])
    before = datetime.now(UTC)
    derive(store, store.at(), "mine", Derivation(Recipe("all", "from labels")))
    (row,) = fetch_rows(connect(store.at()), "select name, committed_at from datasets")
    assert row["name"] == "mine"
    assert before <= row["committed_at"] <= datetime.now(UTC)
