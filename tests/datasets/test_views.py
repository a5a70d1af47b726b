"""Labels are means over the horizon after their own cursor, and only where they are legal."""

import pytest

from mctrace.context.errors import StoreError
from mctrace.datasets.queries import connect, fetch_rows


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
