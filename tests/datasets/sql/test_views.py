"""Labels are means over the horizon after their own cursor, and only where they are legal."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.schemas import ADDED_COLUMNS
from mctrace.datasets.upkeep.verify import verify
from mctrace.errors import StoreError
from mctrace.progress import Silent
from tests.datasets.synthetic import add_trajectory, effect


@pytest.fixture
def connection(store):
    return connect(store.at())


def labels(connection, trajectory="ta", where="true"):
    rows = fetch_rows(connection, f"from labels where trajectory_id = ? and {where}", trajectory)
    return {(r["cursor"], r["action"], r["node_level"], r["node_index"]): r for r in rows}


def test_a_label_is_the_mean_over_the_horizon_after_its_cursor(connection):
    found = labels(connection)
    assert found[32, "expand", 2, 0]["delta_nll"] == -1
    assert found[36, "expand", 2, 0]["delta_nll"] == -3
    assert found[32, "expand", 1, 4]["delta_nll"] == 0
    assert found[36, "expand", 1, 4]["delta_nll"] == 1


def test_value_of_detail_has_the_same_sign_whichever_state_is_current(connection):
    found = labels(connection)
    assert found[32, "expand", 2, 0]["value_of_detail"] == 1
    assert found[32, "collapse", 1, 6]["value_of_detail"] == 0.25


def test_the_standard_error_is_over_the_horizons_tokens(connection):
    found = labels(connection)
    spread = (4 / 3 * 0.25) ** 0.5  # sample deviation of +-0.5 four times
    assert found[32, "expand", 1, 4]["stderr"] == pytest.approx(spread / 2)
    assert found[32, "expand", 2, 0]["stderr"] == 0


def test_a_collapse_is_a_label_only_outside_the_protected_tail(connection):
    found = labels(connection)
    assert (32, "collapse", 1, 6) in found
    assert (32, "collapse", 1, 7) not in found
    assert found[36, "collapse", 1, 7]["delta_nll"] == 0.75
    assert len(found) == 7


def test_distances_costs_and_levels(connection):
    found = labels(connection)
    wide = found[36, "expand", 2, 0]
    assert (wide["distance_to_cursor"], wide["span_width"], wide["positions"]) == (20, 16, 3)
    assert (wide["entry_level"], wide["cursor_offset"]) == (2, 4)
    assert found[36, "collapse", 1, 7]["entry_level"] == 0


def test_a_shorter_horizon_needs_no_new_measurement_and_a_longer_one_is_refused(connection):
    (row,) = fetch_rows(
        connection,
        "select delta_nll from labels_at(1) where trajectory_id = 'ta' and cursor = 32 "
        "and action = 'expand' and node_level = 1",
    )
    assert row["delta_nll"] == 0.5
    with pytest.raises(StoreError, match="horizon 5 is outside 1 to 4"):
        fetch_rows(connection, "select avg(delta_nll) from labels_at(5)")


def test_snapshots_count_the_entries_of_their_working_context(connection):
    rows = fetch_rows(connection, "from snapshots where trajectory_id = 'ta' order by cursor")
    # one level-2 gist, two level-1 gists, two blocks of four tokens; then four more tokens
    assert [row["num_entries"] for row in rows] == [11, 15]
    assert [row["baseline_nll"] for row in rows] == [1.5, 5.5]
    assert [row["split"] for row in rows] == ["train", "train"]


def test_a_cursor_inside_a_block_counts_only_the_tokens_before_it(store):
    from tests.datasets.synthetic import add_trajectory

    add_trajectory(store, "cut", "a", [], levels=(1, 0), cursors=(6,))
    (row,) = fetch_rows(connect(store.at()), "from snapshots where trajectory_id = 'cut'")
    assert row["num_entries"] == 1 + 2


def test_an_effect_that_is_not_ok_is_kept_but_is_no_label(store):
    from tests.datasets.synthetic import add_trajectory, effect

    add_trajectory(store, "bad", "a", [effect("expand", 1, 4, 32, None, status="not finite")])
    connection = connect(store.at())
    assert labels(connection, "bad") == {}
    assert len(fetch_rows(connection, "from effects where trajectory_id = 'bad'")) == 1


def test_an_effect_that_lacks_tokens_is_an_error_not_a_shorter_mean(store):
    from tests.datasets.synthetic import add_trajectory, effect

    add_trajectory(store, "short", "a", [effect("expand", 1, 4, 32, [-0.5] * 6)])
    with pytest.raises(StoreError, match="trajectory short lacks tokens"):
        fetch_rows(connect(store.at()), "select avg(delta_nll) from labels")


def test_where_an_action_was_audited_the_exact_row_stands(store):
    from tests.datasets.synthetic import add_trajectory, effect

    cheap = {"estimator": "windowed", "estimator_window": 64}
    effects = [
        effect("expand", 1, 4, 32, [-0.5] * 8),
        effect("expand", 1, 4, 32, [-0.4] * 8, **cheap),
        effect("expand", 1, 5, 32, [-0.3] * 8, **cheap),
    ]
    add_trajectory(store, "audited", "a", effects)
    found = labels(connect(store.at()), "audited", "cursor = 32")
    assert {(r["node_index"], r["estimator"]) for r in found.values()} == {(4, "exact"), (5, "windowed")}
    assert len(fetch_rows(connect(store.at()), "from labels where trajectory_id = 'audited'")) == 4


def test_an_old_version_stays_as_it_was(store):
    from tests.datasets.synthetic import add_trajectory

    version = store.at().version
    add_trajectory(store, "later", "a", [])
    assert len(fetch_rows(connect(store.at(version)), "from trajectories")) == 3
    assert len(fetch_rows(connect(store.at()), "from trajectories")) == 4


def test_variants_are_judged_against_their_groups_lod0_baseline(store):
    from tests.datasets.synthetic import add_trajectory

    group = {"variant_group": "g", "cursors": (32,)}
    add_trajectory(store, "v0", "a", [], policy="variant_lod0", baseline_nll=[1.0] * 4, **group)
    add_trajectory(store, "v1", "a", [], policy="variant_random", baseline_nll=[3.0] * 4, **group)
    add_trajectory(store, "v2", "a", [], policy="variant_random", baseline_nll=[2.0] * 4, **group)
    connection = connect(store.at())
    rows = fetch_rows(connection, "select snapshot_id, adv_delta from variants order by adv_delta")
    assert [(row["snapshot_id"], row["adv_delta"]) for row in rows] == [
        ("v0:32", 0), ("v2:32", 1), ("v1:32", 2)
    ]  # fmt: skip
    pairs = fetch_rows(
        connection, "select better_snapshot_id b, worse_snapshot_id w, strength s from preference_pairs"
    )
    assert {(p["b"], p["w"], p["s"]) for p in pairs} == {
        ("v0:32", "v2:32", 1), ("v0:32", "v1:32", 2), ("v2:32", "v1:32", 1)
    }  # fmt: skip


def test_a_control_tells_the_texts_worth_from_its_gists(store):
    """The tokens of block 6 as text 2.0, as a gist 2.5, left out 2.25: the gist is worse than nothing."""
    effects = [
        effect("collapse", 1, 6, 32, [0.5] * 8, first_entry=6, num_entries=4),
        {**effect("collapse", 1, 6, 32, [0.25] * 8), "action": "drop"},
        effect("expand", 2, 0, 32, [-1.0] * 8),
        {**effect("expand", 2, 0, 32, [0.5] * 8), "action": "drop"},
    ]
    mass = [0.5, 0.1, 0, 0, 0, 0, 0.01, 0.02, 0.03, 0.04]
    attention = {"trajectory_id": "controlled", "attention_mass": mass, "status": "ok"}
    add_trajectory(store, "controlled", "a", effects, attention=[attention])
    connection = connect(store.at())
    query = (
        "select action, information_value, gist_value, value_of_detail, attention_mass from controls "
        "where trajectory_id = 'controlled' and cursor = 32 order by action"
    )
    collapse, expand = fetch_rows(connection, query)
    assert collapse["action"] == "collapse"
    assert (collapse["information_value"], collapse["gist_value"]) == (0.25, -0.25)
    assert collapse["value_of_detail"] == 0.5
    assert collapse["attention_mass"] == pytest.approx(0.01 + 0.02 + 0.03 + 0.04)
    # The gist earns 0.5 over nothing, its children 1.0 more.
    assert (expand["information_value"], expand["gist_value"]) == (1.5, 0.5)
    assert expand["value_of_detail"] == 1.0
    assert expand["attention_mass"] is None
    labels = fetch_rows(connection, "select distinct action from labels where trajectory_id = 'controlled'")
    assert {row["action"] for row in labels} == {"expand", "collapse"}


def test_a_joint_edit_stands_beside_the_sum_of_its_single_ones(store):
    actions = [
        {"action": "expand", "node_level": 2, "node_index": 0},
        {"action": "collapse", "node_level": 1, "node_index": 5},
    ]
    joint = {
        "trajectory_id": "t",
        "actions": actions,
        "first_token": 32,
        "delta_nll": [-0.25] * 8,
        "sum_of_singles": [-0.5] * 4 + [-2.5] * 4,
        "status": "ok",
    }
    again = {**joint, "status": "ok"}
    add_trajectory(store, "t", "a", [], joint_effects=[joint, again, {**joint, "status": "not finite"}])
    connection = connect(store.at())
    rows = fetch_rows(connection, "from joint_edits order by cursor")
    assert [(row["cursor"], row["sum_of_singles"], row["additivity_gap"]) for row in rows] == [
        (32, -0.5, 0.25),
        (36, -2.5, 2.25),
    ]
    assert {row["joint_id"] for row in rows} == {"t:expand.2.0+collapse.1.5"}
    with pytest.raises(StoreError, match="horizon 5 is outside 1 to 4"):
        fetch_rows(connection, "from joint_edits_at(5)")


def test_files_that_lack_later_columns_are_read_as_null(store):
    version = store.at()
    expected = fetch_rows(connect(version), "select count(*) as n from labels")
    for table, added in ADDED_COLUMNS.items():
        for file in version.table_files(table):
            old = pq.read_table(file)
            pq.write_table(old.drop_columns(sorted(added)), file)
    connection = connect(version)
    assert fetch_rows(connection, "select count(*) as n from labels") == expected
    assert fetch_rows(connection, "select distinct attention_mass from labels") == [{"attention_mass": None}]
    statuses = fetch_rows(connection, "select distinct baseline_status from trajectories")
    assert statuses == [{"baseline_status": "ok"}]
    problems = [problem.what for problem in verify(version, quick=True, progress=Silent())]
    assert problems, "their sizes are no longer those of the ledger"
    assert not [problem for problem in problems if "schema" in problem]


def newey_west(values):
    """The definition, term by term."""
    n, mean = len(values), np.mean(values)
    lags = min(math.floor(4 * (n / 100) ** (2 / 9)), n - 1)
    total = sum((v - mean) ** 2 for v in values)
    for k in range(1, lags + 1):
        weight = 1 - k / (lags + 1)
        total += 2 * weight * sum((values[t] - mean) * (values[t + k] - mean) for t in range(n - k))
    return math.sqrt(max(total, 0) / n / (n - 1))


def test_the_honest_standard_error_is_its_definition_and_sees_correlated_neighbours(connection):
    drawn = np.random.default_rng(0).normal(size=4000)
    smoothed = np.convolve(drawn, np.ones(5) / 5, "valid")[:128]
    for values in (drawn[:128], smoothed, drawn[:5]):
        (found,) = fetch_rows(connection, "select newey_west_stderr(?) as hac", values.tolist())
        assert found["hac"] == pytest.approx(newey_west(values), rel=1e-9)
    plain = smoothed.std(ddof=1) / math.sqrt(128)
    assert newey_west(smoothed) > 1.4 * plain
    for row in fetch_rows(connection, "from labels where hac_stderr is not null"):
        at = "from token_effects where snapshot_id = ? and action = ? and node_level = ? and node_index = ?"
        key = [row[name] for name in ("snapshot_id", "action", "node_level", "node_index")]
        (tokens,) = fetch_rows(connection, at, *key)
        assert row["hac_stderr"] == pytest.approx(newey_west(tokens["delta_nll"]), abs=1e-9)
    assert fetch_rows(connection, "from labels where hac_stderr is not null")
