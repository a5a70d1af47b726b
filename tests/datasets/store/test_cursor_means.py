"""Labels are the same whether an effect keeps its means or they are worked out from its tokens."""

import numpy as np
import pytest

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.cursor_means import cursor_means, mean_columns
from mctrace.datasets.upkeep.verify import verify
from mctrace.progress import Silent
from tests.collect.runs import tiny_run
from tests.datasets.synthetic import EFFECTS, add_trajectory, effect

CURSORS, HORIZON = (32, 36), 4


def keeping(row: dict[str, object]) -> dict[str, object]:
    """An effect of the synthetic store with its means beside its tokens."""
    return {**row, **mean_columns(np.array(row["delta_nll"]), row["first_token"], CURSORS, HORIZON)}


def labels(store, trajectory_id: str, view: str = "labels") -> list[dict[str, object]]:
    rows = fetch_rows(
        connect(store.at()), f"from {view} where trajectory_id = $1 order by all", trajectory_id
    )
    return [{**row, "trajectory_id": "", "snapshot_id": row["cursor"]} for row in rows]


def test_means_and_standard_errors_are_those_of_each_cursors_horizon():
    values = np.array([[1.0, 2, 3, 4, 6], [0, 0, 0, 0, 1]], dtype=np.float32)
    mean, stderr = cursor_means(values, 10, (9, 10, 11, 12), 4)
    np.testing.assert_array_equal(mean, [[np.nan, 2.5, 3.75, np.nan], [np.nan, 0, 0.25, np.nan]])
    spread = np.std([2, 3, 4, 6], ddof=1) / 2
    np.testing.assert_allclose(stderr[0], [np.nan, np.std([1, 2, 3, 4], ddof=1) / 2, spread, np.nan])
    mean, stderr = cursor_means(values, 10, (12,), 1)
    assert mean[:, 0].tolist() == [3, 0]
    assert np.isnan(stderr).all()


def test_a_store_of_both_kinds_of_rows_gives_the_same_labels(store):
    add_trajectory(store, "kept", "a", [keeping(row) for row in EFFECTS])
    add_trajectory(store, "half", "a", [keeping(row) if i % 2 else row for i, row in enumerate(EFFECTS)])
    expected = labels(store, "ta")
    assert len(expected) == 7
    assert labels(store, "kept") == expected
    assert labels(store, "half") == expected


def test_labels_at_the_collected_horizon_read_the_means_and_no_others_do(store):
    wrong = keeping(EFFECTS[0]) | {"cursor_delta_nll": [5.0, 7.0]}
    add_trajectory(store, "wrong", "a", [wrong])
    assert {row["cursor"]: row["delta_nll"] for row in labels(store, "wrong")} == {32: 5.0, 36: 7.0}
    at_horizon = labels(store, "wrong", "labels_at(4)")
    assert {row["cursor"]: row["delta_nll"] for row in at_horizon} == {32: -1.0, 36: -3.0}
    shorter = labels(store, "wrong", "labels_at(2)")
    assert {row["cursor"]: row["delta_nll"] for row in shorter} == {32: -1.0, 36: -3.0}


def test_verify_holds_means_against_tokens(store):
    add_trajectory(store, "kept", "a", [keeping(row) for row in EFFECTS])
    assert list(verify(store.at(), quick=False, progress=Silent())) == []
    add_trajectory(store, "wrong", "a", [keeping(EFFECTS[0]) | {"cursor_delta_nll": [-1.0, -3.1]}])
    add_trajectory(store, "short", "a", [keeping(EFFECTS[0]) | {"cursor_delta_nll": [-1.0]}])
    (problem,) = verify(store.at(), quick=False, progress=Silent())
    assert "means are not those of their tokens" in problem.what


@pytest.mark.parametrize("keeps", ["exact", "windowed"])
def test_an_audit_counts_whichever_row_keeps_its_means(store, keeps):
    rows = {
        "exact": effect("expand", 1, 4, 32, [1.0] * 8),
        "windowed": effect("expand", 1, 4, 32, [2.0] * 8, estimator="windowed", estimator_window=64),
    }
    effects = [keeping(row) if name == keeps else row for name, row in rows.items()]
    add_trajectory(store, "audited", "a", effects)
    assert [row["delta_nll"] for row in labels(store, "audited")] == [1.0, 1.0]


def test_a_run_keeps_what_its_tokens_say(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path)
    run.measure()
    connection = connect(run.store.at())
    missing = fetch_rows(
        connection, "from effects where status = 'ok' and (cursor_delta_nll is null or cursor_stderr is null)"
    )
    assert missing == []
    horizon = run.config.collect.horizon
    order = "trajectory_id, cursor, action, node_level, node_index"
    kept = fetch_rows(connection, f"from labels order by {order}")
    computed = fetch_rows(connection, f"from labels_at({horizon}) order by {order}")
    assert len(kept) == len(computed) > 20
    for name in ("delta_nll", "stderr", "value_of_detail"):
        np.testing.assert_allclose(
            [row[name] for row in kept], [row[name] for row in computed], rtol=1e-6, atol=1e-9
        )
