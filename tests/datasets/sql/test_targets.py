"""Targets against hand-computed cases, against their definition tried out price by price, and against the
best plan.

`priced` is what a planner with perfect single effects would do: with equal costs its signs are those of the
best exchange of expands for collapses that leaves the length as it is, found by trying all of them; with
unequal costs its utilities add up to the optimum of the fractional knapsack, by duality.
"""

from itertools import combinations
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import TARGETS, read_sql, target_sql
from mctrace.datasets.sql.target import Target
from mctrace.errors import ConfigError, InputError
from tests.datasets.making import effect_row, trajectory_row, views_over
from tests.datasets.synthetic import add_trajectory, effect


def utilities(target: str, actions: list[tuple], num_entries: int = 100, budget: float | None = None):
    """Runs a target over one snapshot; an action is (kind, value of detail, positions, inclusion)."""
    connection = duckdb.connect()
    connection.register("snapshots", pa.table({"snapshot_id": ["s"], "num_positions": [num_entries]}))
    labels = pa.table(
        {
            "snapshot_id": ["s"] * len(actions),
            "node_index": list(range(len(actions))),
            "action": [a[0] for a in actions],
            "value_of_detail": [float(a[1]) for a in actions],
            "delta_nll": [float(a[1]) * (-1 if a[0] == "expand" else 1) for a in actions],
            "positions": [a[2] for a in actions],
            "inclusion_probability": [float(a[3]) for a in actions],
        }
    )
    connection.register("labels", labels)
    if budget is not None:
        connection.execute(f"set variable budget = {budget}")
    for view in ("balancing_prices", "shadow_prices"):
        connection.execute(read_sql("views", f"{view}.sql"))
    return fetch_rows(connection, f"from ({target_sql(target)}) order by node_index")


def test_literal_is_the_specs_clipping():
    rows = utilities(
        "literal",
        [
            ("expand", 0.3, 31, 1),
            ("expand", -0.2, 31, 1),
            ("collapse", 0.4, 31, 1),
            ("collapse", -0.1, 31, 1),
        ],
    )
    assert [row["utility"] for row in rows] == [0.3, 0, -0.4, 0]


def test_priced_pays_the_best_expands_with_the_cheapest_collapses():
    rows = utilities(
        "priced",
        [
            ("expand", 0.9, 3, 1),
            ("expand", 0.5, 3, 1),
            ("expand", 0.1, 3, 1),
            ("collapse", 0.0, 3, 1),
            ("collapse", 0.3, 3, 1),
            ("collapse", 0.8, 3, 1),
        ],
    )
    # two of each: values cross between 0.3 and 0.5, and the smallest price that balances is 0.3 a node
    assert [row["shadow_price"] for row in rows] == pytest.approx([0.1] * 6)
    assert [row["utility"] for row in rows] == pytest.approx([0.6, 0.2, 0, -0.3, 0, 0])


def test_priced_without_expands_sells_only_what_is_worse_than_nothing():
    rows = utilities("priced", [("collapse", -0.2, 3, 1), ("collapse", 0.5, 3, 1)])
    assert [row["shadow_price"] for row in rows] == [0, 0]
    assert [row["utility"] for row in rows] == [-0.2, 0]


def test_priced_lets_a_tight_budget_raise_the_price_and_an_impossible_one_give_null():
    actions = [("expand", 0.9, 3, 1), ("collapse", 0.1, 3, 1), ("collapse", 0.4, 3, 1)]
    assert utilities("priced", actions)[0]["shadow_price"] == pytest.approx(0.1 / 3)
    assert utilities("priced", actions, budget=97)[0]["shadow_price"] == pytest.approx(0.4 / 3)
    impossible = utilities("priced", actions, budget=90)
    assert [row["utility"] for row in impossible] == [None] * 3


def test_a_sampled_action_counts_for_those_it_stands_for():
    # one collapse sampled with probability 1/2 stands for two: both expands can be paid
    rows = utilities("priced", [("expand", 0.9, 3, 1), ("expand", 0.8, 3, 1), ("collapse", 0.1, 3, 0.5)])
    assert [row["utility"] for row in rows] == pytest.approx([0.8, 0.7, 0])


actions_strategy = st.lists(
    st.tuples(
        st.sampled_from(["expand", "collapse"]),
        st.integers(-20, 60).map(lambda v: v / 16),
        st.sampled_from([3, 31]),
        st.sampled_from([1.0, 0.5, 0.25]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(actions=actions_strategy, slack=st.sampled_from([None, 0, 40, -31]))
def test_the_shadow_price_is_the_smallest_that_balances(actions, slack):
    rows = utilities("priced", actions, budget=None if slack is None else 100 + slack)
    price = rows[0]["shadow_price"]

    def balance(at: float) -> float:
        used = sum(c / p for kind, v, c, p in actions if kind == "expand" and v > at * c)
        return used - sum(c / p for kind, v, c, p in actions if kind == "collapse" and v < at * c)

    densities = sorted({0.0, *(v / c for _, v, c, _ in actions if v > 0)})
    # the balance is constant between densities; just above one it is what a marginal action makes of it
    epsilon = 1e-7
    balancing = [d for d in densities if balance(d + epsilon) <= (slack or 0) + 1e-6]
    if not balancing:
        assert price is None
        return
    assert price == pytest.approx(balancing[0], abs=1e-9)
    for (kind, value, positions, _), row in zip(actions, rows, strict=True):
        u = value - price * positions
        expected = max(0.0, u) if kind == "expand" else min(0.0, u)
        assert row["utility"] == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.integers(-40, 99), min_size=2, max_size=9, unique=True),
    kinds=st.lists(st.sampled_from(["expand", "collapse"]), min_size=9, max_size=9),
)
def test_with_equal_costs_signs_are_those_of_the_best_exchange(values, kinds):
    """Every set of expands paid by as many collapses, tried."""
    actions = [(kind, value / 16, 3, 1) for kind, value in zip(kinds, values, strict=False)]
    expands = [a for a in actions if a[0] == "expand"]
    collapses = [a for a in actions if a[0] == "collapse"]
    best = max(
        sum(a[1] for a in bought) - sum(a[1] for a in sold)
        for bought in subsets(expands)
        for sold in subsets(collapses)
        if len(bought) <= len(sold)
    )
    rows = utilities("priced", actions)
    assert sum(abs(row["utility"]) for row in rows) == pytest.approx(best, abs=1e-9)
    bought = [row["value_of_detail"] for row in rows if row["utility"] > 0]
    sold = [row["value_of_detail"] for row in rows if row["utility"] < 0]
    at_price = [row["value_of_detail"] for row in rows if row["value_of_detail"] == row["shadow_price"] * 3]
    # What sits exactly at the price may go either way: together with as much of it as balances, it is the
    # best plan.
    gap = len(bought) - len(sold)
    assert gap <= sum(1 for _ in at_price) or rows[0]["shadow_price"] == 0
    assert sum(bought) - sum(sold) - gap * rows[0]["shadow_price"] * 3 == pytest.approx(best, abs=1e-9)


def subsets(actions):
    return [chosen for size in range(len(actions) + 1) for chosen in combinations(actions, size)]


@settings(deadline=None, max_examples=60)
@given(actions=actions_strategy)
def test_with_unequal_costs_utilities_add_up_to_the_best_fractional_exchange(actions):
    """max sum x v - sum y v over 0 <= x, y <= 1 with sum x c <= sum y c, by linear programming."""
    gains = [v / p * (1 if kind == "expand" else -1) for kind, v, _, p in actions]
    costs = [c / p * (1 if kind == "expand" else -1) for kind, _, c, p in actions]
    optimum = linprog([-g for g in gains], A_ub=[costs], b_ub=[0], bounds=(0, 1))
    rows = utilities("priced", actions)
    found = sum(abs(row["utility"]) / p for row, (_, _, _, p) in zip(rows, actions, strict=True))
    assert found == pytest.approx(-optimum.fun, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(actions=actions_strategy)
def test_no_target_gives_an_action_the_other_ones_sign(actions):
    for target in ("priced", "literal"):
        for row in utilities(target, actions):
            if row["utility"] is not None:
                assert row["utility"] * (1 if row["action"] == "expand" else -1) >= 0


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_flipping_which_state_is_current_flips_nothing_in_the_value_of_detail(values):
    """One node as a gist with its expand, and as tokens with its collapse: the effect is the opposite."""
    collapse = effect_row("text", "collapse", 1, 0, first_token=8, delta_nll=values)
    expand = effect_row("gist", "expand", 1, 0, first_token=8, delta_nll=[-value for value in values])
    connection = views_over(
        trajectories=[trajectory_row("text", [0, 0], [8]), trajectory_row("gist", [1, 0], [8])],
        effects=[collapse, expand],
    )
    rows = fetch_rows(
        connection, "select value_of_detail, stderr, delta_nll from labels order by trajectory_id"
    )
    gist, text = rows
    assert gist["value_of_detail"] == text["value_of_detail"]
    assert gist["stderr"] == text["stderr"]
    assert gist["delta_nll"] == -text["delta_nll"]


def test_standardised_targets_give_every_kind_the_same_spread_and_keep_signs_and_zeros(store):
    expands = [effect("expand", 1, 4, 32, [-2.0] * 8), effect("expand", 1, 5, 32, [-0.25] * 8)]
    collapses = [effect("collapse", 1, 6, 32, [value] * 8) for value in (0.125,)]
    collapses += [effect("collapse", 1, 7, 32, [-0.5] * 8), effect("expand", 2, 0, 32, [-3.0] * 8)]
    add_trajectory(store, "more", "a", [*expands, *collapses], protected_tail=0)
    connection = connect(store.at())
    for target in ("priced", "literal"):
        rows = fetch_rows(
            connection,
            f"select action, entry_level, split, t.utility as plain, s.utility from {target}_target as t "
            f"join {target}_standardised_target as s "
            "using (snapshot_id, action, node_level, node_index, entry_level, split)",
        )
        assert all((row["plain"] > 0) - (row["plain"] < 0) == (row["utility"] > 0) - (row["utility"] < 0)
                   for row in rows)  # fmt: skip
        kinds: dict[tuple, list[float]] = {}
        for row in rows:
            if row["split"] == "train":
                kinds.setdefault((row["action"], row["entry_level"]), []).append(row["utility"])
        spreads = [sum(u * u for u in of_kind) / len(of_kind) for of_kind in kinds.values() if any(of_kind)]
        assert len(spreads) > 1
        assert spreads == pytest.approx([spreads[0]] * len(spreads))


def test_every_target_is_a_view_and_none_changes_the_number_of_labels(store):
    add_trajectory(store, "more", "a", [effect("expand", 1, 5, 32, [-0.5] * 8)])
    connection = connect(store.at())
    (labels,) = fetch_rows(connection, "select count(*) as n from labels")
    for target in TARGETS:
        assert fetch_rows(connection, f"select count(*) as n from {target}_target") == [labels]


def test_how_entries_merge_is_said_in_the_text_whatever_it_is_called(tmp_path, store):
    literal, priced = Target.named("literal"), Target.named("priced")
    assert (literal.merge, priced.merge) == ("largest", "sum")
    assert (literal.signed, priced.signed) == (True, True)
    assert (Target.named("value").merge, Target.named("value").signed) == ("mean", False)
    assert {Target.named(f"{name}_standardised").merge for name in ("literal", "priced")} == {
        "largest",
        "sum",
    }
    assert Target("mine", literal.sql).merge == "largest"
    assert Target("literal_mine", priced.sql).merge == "sum"
    own = tmp_path / "own.sql"
    own.write_text("-- half\n--merge: largest \nselect *, value_of_detail / 2 as utility from labels;\n")
    chosen, default = str(own), str(tmp_path / "default.sql")
    Path(default).write_text(own.read_text().replace("--merge: largest", "-- no merging is spoken of"))
    merges = [open_training_data(store.at(), path, utility_scale=1.0).merge for path in (chosen, default)]
    assert merges == ["largest", "sum"]
    own.write_text("-- merge: larger\nselect *, value_of_detail as utility from labels")
    with pytest.raises(
        ConfigError, match=r"'-- merge:' of the target '.*own.sql' must be one of sum, largest, mean"
    ):
        Target.named(chosen)


def test_an_unknown_target_is_refused_and_a_users_own_file_is_taken(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="literal, priced, value"):
        target_sql("pricd")
    with pytest.raises(InputError) as told:
        target_sql("x/nope.sql")
    assert str(told.value) == "no target 'x/nope.sql': there is no such file, here or in targets/"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/halved.sql").write_text("select *, value_of_detail / 2 as utility from labels")
    assert "value_of_detail / 2" in target_sql("halved")
    own = tmp_path / "double.sql"
    own.write_text("-- twice the value\nselect *, 2 * value_of_detail as utility from labels;\n")
    connection = duckdb.connect()
    connection.register("labels", pa.table({"value_of_detail": [0.5]}))
    assert fetch_rows(connection, f"from ({target_sql(str(own))})")[0]["utility"] == 1.0
