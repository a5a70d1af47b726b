"""literal and priced against hand-computed cases and against the definition, tried out price by price."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mctrace.context.errors import InputError
from mctrace.datasets.queries import fetch_rows, target_sql


def utilities(target: str, actions: list[tuple], num_entries: int = 100, budget: float | None = None):
    """Runs a target over one snapshot; an action is (kind, value of detail, positions, inclusion)."""
    connection = duckdb.connect()
    connection.register("snapshots", pa.table({"snapshot_id": ["s"], "num_entries": [num_entries]}))
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


@settings(deadline=None, max_examples=30)
@given(
    expands=st.lists(st.integers(1, 50), min_size=1, max_size=5, unique=True),
    collapses=st.lists(st.integers(51, 99), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 99),
)
def test_with_equal_costs_signs_are_those_of_the_best_exchange(expands, collapses, seed):
    values = np.random.default_rng(seed).permutation(np.array(expands + collapses)) / 10
    kinds = ["expand"] * len(expands) + ["collapse"] * len(collapses)
    rows = utilities("priced", [(k, v, 3, 1) for k, v in zip(kinds, values, strict=True)])
    e, c = sorted(values[: len(expands)], reverse=True), sorted(values[len(expands) :])
    gains = [sum(e[:n]) - sum(c[:n]) for n in range(min(len(e), len(c)) + 1)]
    best = int(np.argmax(gains))
    bought = {row["value_of_detail"] for row in rows if row["utility"] > 0}
    sold = {row["value_of_detail"] for row in rows if row["utility"] < 0}
    assert bought <= set(e[: best + 1])
    assert sold <= set(c[:best])
    assert set(e[:best]) <= bought
    # the marginal collapse sits exactly at the price
    assert len(set(c[:best]) - sold) <= 1


def test_an_unknown_target_is_refused_and_a_users_own_file_is_taken(tmp_path):
    with pytest.raises(InputError, match="priced, literal"):
        target_sql("pricd")
    own = tmp_path / "double.sql"
    own.write_text("-- twice the value\nselect *, 2 * value_of_detail as utility from labels;\n")
    connection = duckdb.connect()
    connection.register("labels", pa.table({"value_of_detail": [0.5]}))
    assert fetch_rows(connection, f"from ({target_sql(str(own))})")[0]["utility"] == 1.0
