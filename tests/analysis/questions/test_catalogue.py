"""Each shipped .sql against numbers worked out by hand from the store of synthetic.py.

Weights, 1 / inclusion_probability: document a's level-1 expands 2, its level-0 collapses 4, all else 1. The
level-1 expands of both documents, sorted by value: −1/8 (weight 2), 0 and 0 (1 each, b's two cursors), 1/4
twice (2 each), 1/2 (2), 1 and 1 (1 each): 12 in all.
"""

from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.stats import spearmanr

from mctrace.analysis.questions.catalogue import Row, add_scores, narrowed, read_analysis, run_analysis
from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.store import Store
from mctrace.errors import StoreError
from tests.analysis.synthetic import (
    BY_HAND,
    ODD_SOURCE,
    SCRIPT_SOURCE,
    TOKENIZER_HASH,
    Measured,
    Trajectory,
    write_store,
)
from tests.datasets.synthetic import add_trajectory, effect, synthetic_store

ANALYSES = sorted(
    path.stem for path in Path(__file__).parents[3].joinpath("analysis", "questions").glob("*.sql")
)
READ_TARGETS = {"target_utilities", "target_histogram", "shadow_prices", "snapshot_actions"}
READ_SCORES = {"scorer_agreement", "scorer_calibration"}
READ_WHAT_THIS_STORE_LACKS = {
    "additivity_gap",
    "estimator_audit",
    "gist_damage",
    "control_points",
    "joint_points",
}
"""joint edits, audits and controls"""

Connection = duckdb.DuckDBPyConnection


def pick(rows: list[Row], **wanted: Any) -> Row:
    (found,) = [row for row in rows if all(row[column] == value for column, value in wanted.items())]
    return found


def picked(row: Row, *columns: str) -> list[Any]:
    return [row[column] for column in columns]


def test_provenance(connection: Connection) -> None:
    (row,) = run_analysis(connection, "provenance")
    assert row["started_at"] == datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
    assert picked(row, "run_id", "outcome", "policies") == ["run-1", "finished", "recency"]
    assert picked(row, "shortest_horizon", "longest_horizon") == [32, 32]
    assert picked(row, "num_documents", "num_trajectories", "num_snapshots") == [2, 2, 3]
    assert picked(row, "num_effects", "num_failed", "num_labels") == [10, 1, 12]


def test_splits(connection: Connection) -> None:
    rows = [list(row.values()) for row in run_analysis(connection, "splits")]
    assert rows == [["train", 1, 1, 1, 8], ["validation", 1, 0, 0, 0], ["test", 1, 1, 2, 4]]


def test_horizons(connection: Connection) -> None:
    assert run_analysis(connection, "horizons") == [
        {"shortest_horizon": 32, "longest_horizon": 32, "num_settings": 1}
    ]


@pytest.mark.parametrize("horizon", [16, 32])
def test_signal(connection: Connection, horizon: int) -> None:
    rows = run_analysis(connection, "signal", horizon=horizon)
    assert {row["horizon"] for row in rows} == {horizon}
    everything = pick(rows, action=None)
    # All but the wobbling expand, the collapse worth nothing and b's expand worth nothing, at two cursors.
    assert picked(everything, "num_labels", "num_documents", "num_beyond") == [12, 2, 8]
    assert everything["share_of_labels"] == pytest.approx(8 / 12)
    assert everything["share_of_actions"] == pytest.approx((6 + 1 + 4 + 1 + 2) / 22)
    expands = pick(rows, action="expand", entry_level=1)
    assert picked(expands, "num_labels", "num_beyond") == [8, 5]
    assert expands["share_of_actions"] == pytest.approx((6 + 2) / 12)
    collapses = pick(rows, action="collapse", entry_level=0)
    assert picked(collapses, "num_beyond", "share_of_labels") == [1, 0.5]


def test_signal_medians_are_unweighted(connection: Connection) -> None:
    collapse = pick(run_analysis(connection, "signal"), action="collapse", entry_level=0)
    # |delta_nll| is 1/2 and 0. The first one's tokens lie 1/4 to either side: a standard error of 1/4 / √31.
    assert collapse["median_abs_delta_nll"] == 0.25
    assert collapse["median_stderr"] == pytest.approx(0.25 / sqrt(31) / 2)


def test_rank_stability(connection: Connection) -> None:
    rows = run_analysis(connection, "rank_stability", half_horizon=16)
    assert [row["scope"] for row in rows] == ["kind", "snapshot", "all"]
    assert {row["num_trajectories"] for row in rows} == {2}
    kind, snapshot, everything = rows
    # Level-1 expands of a rank 4 3 2 1, then 4 2 3 1: 1 − 6 · 2 / 60. b has too few to rank.
    assert picked(kind, "num_documents", "num_rankings", "num_labels", "stderr") == [1, 1, 4, None]
    assert kind["spearman"] == pytest.approx(0.8)
    # All of a rank 7 6 5 2 4 8 3 1, then 8 5½ 7 2 4 5½ 3 1 (in the order they are written down).
    assert picked(snapshot, "num_documents", "num_rankings", "num_labels") == [1, 1, 8]
    assert snapshot["spearman"] == pytest.approx(36 / sqrt(42 * 41.5))
    # With b's 1, 1, 0, 0 in both halves: 3 tie at 0 and 2 at 1, in the second half 2 more at 1/4.
    assert picked(everything, "num_documents", "num_rankings", "num_labels") == [2, 1, 12]
    assert everything["spearman"] == pytest.approx(134.5 / sqrt(140.5 * 140))


def test_rank_stability_is_averaged_over_documents(tmp_path: Path) -> None:
    same = [Measured("expand", 1, 4 + i, i / 8, i / 8) for i in range(4)]
    turned = [Measured("expand", 1, 4 + i, i / 8, -i / 8) for i in range(4)]
    store = write_store(
        tmp_path / "two",
        [Trajectory("same", "train", same, cursors=(64, 68, 72)), Trajectory("turned", "train", turned)],
    )
    snapshot = pick(run_analysis(connect(store.at()), "rank_stability"), scope="snapshot")
    assert picked(snapshot, "num_documents", "num_rankings", "half_horizon") == [2, 4, 16]
    # +1 three times and −1 once, but a document counts once: 0 ± √2 / √2. (At later cursors of `same` the
    # halves shift by a few tokens and keep their order.)
    assert snapshot["spearman"] == pytest.approx(0)
    assert snapshot["stderr"] == pytest.approx(1)


def test_a_horizon_beyond_the_measured_one_is_no_shorter_mean(connection: Connection) -> None:
    with pytest.raises(StoreError, match="horizon 64 is outside 1 to 32"):
        run_analysis(connection, "rank_stability", half_horizon=32)


def test_rank_stability_needs_more_than_a_dataset_keeps(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", BY_HAND)
    derive(store, store.at(), "all", Derivation(Recipe("all.sql", "from labels")))
    derived = connect(store.at().read_through("all"))
    for variables in ({}, {"half_horizon": 16}, {"half_horizon": 32}):
        with pytest.raises(StoreError, match="derived at 32 and keeps no other"):
            run_analysis(derived, "rank_stability", **variables)


@pytest.mark.parametrize(
    "name",
    [
        "rank_stability", "baseline_agreement", "scorer_agreement", "value_by_token_class", "value_by_lag",
        "value_by_horizon",
    ],
)  # fmt: skip
def test_large_stores_are_sampled_by_trajectory(tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(1)
    many = [
        Trajectory(str(i), "train", [
            Measured("expand", 1, 4 + action, *generator.normal(size=2)) for action in range(4)
        ])
        for i in range(6)
    ]  # fmt: skip
    store = write_store(tmp_path / "store", many)
    connection = connect(store.at())
    add_scores(connection, [])

    def drawn_from(connection: Connection, most: int | None) -> set[str]:
        rows = connection.execute("from drawn_trajectories($1)", [most]).fetchall()
        return {trajectory_id for (trajectory_id,) in rows}

    chosen = drawn_from(connection, 2)
    assert chosen < drawn_from(connection, 3) < drawn_from(connection, None)
    assert len(chosen) == 2

    def answer(**variables: int) -> list[Row]:
        """Rounded: the last bits of sums depend on the order of threads."""
        return [
            {column: round(value, 9) if isinstance(value, float) else value for column, value in row.items()}
            for row in run_analysis(connection, name, **variables)
        ]

    of_two = answer(most_trajectories=2)
    assert of_two == answer(most_trajectories=2) != answer()
    assert answer() == answer(most_trajectories=6)
    with narrowed(connection, "trajectory_id", sorted(chosen)):
        assert answer() == of_two
        assert len(drawn_from(connection, 2)) == 2


def test_a_dataset_is_sampled_among_its_own_labels(tmp_path: Path) -> None:
    measured = [Measured("expand", 1, 4 + i, 1 + i / 8) for i in range(4)]
    measured += [Measured("collapse", 1, 8 + i, i / 8) for i in range(4)]
    store = write_store(tmp_path / "store", [Trajectory(str(i), "train", measured) for i in range(9)])
    derive(store, store.at(), "late", Derivation(Recipe("late.sql", "from labels where source >= '5'")))
    connection = connect(store.at().read_through("late"))
    for most, num_documents in ((1, 1), (3, 3), (300, 4)):
        row, *_ = run_analysis(connection, "baseline_agreement", most_trajectories=most)
        assert row["num_documents"] == num_documents
        row, *_ = run_analysis(connection, "literal_against_priced", most_trajectories=most)
        assert row["num_rankings"] == num_documents
    assert connection.execute("select count(*) from drawn_labels(null)").fetchall() == [(32,)]


def test_value_distribution(connection: Connection) -> None:
    rows = run_analysis(connection, "value_distribution")
    assert [(row["action"], row["entry_level"]) for row in rows] == [
        ("expand", 1), ("expand", 2), ("collapse", 0), ("collapse", 1),
    ]  # fmt: skip
    expands = rows[0]
    assert picked(expands, "num_labels", "num_documents") == [8, 2]
    assert expands["effective_num_labels"] == pytest.approx(144 / 20)
    assert expands["mean"] == pytest.approx((2 * (-0.125 + 0.25 + 0.25 + 0.5) + 2) / 12)
    assert picked(expands, "lowest", "p05", "p25", "p50", "p75", "p95", "highest") == [
        -0.125, -0.125, 0, 0.25, 0.5, 1, 1,
    ]  # fmt: skip


def test_a_quantile_lies_exactly_at_its_share(tmp_path: Path) -> None:
    measured = [Measured("expand", 1, 4 + i, (i + 1) / 4, probability=0.3) for i in range(4)]
    store = write_store(tmp_path / "four", [Trajectory("four", "train", measured)])
    (row,) = run_analysis(connect(store.at()), "value_distribution")
    assert picked(row, "p25", "p50", "p75", "p95") == [0.25, 0.5, 0.75, 1.0]


def test_value_histogram(connection: Connection) -> None:
    rows = run_analysis(connection, "value_histogram")
    # The 98th percentile of |value| over the 12 labels is 1, so bins are 1/20 wide.
    expands = [row for row in rows if (row["action"], row["entry_level"]) == ("expand", 1)]
    assert [row["num_labels"] for row in expands] == [1, 2, 2, 1, 2]
    assert [row["share"] for row in expands] == pytest.approx([2 / 12, 2 / 12, 4 / 12, 2 / 12, 2 / 12])
    assert [row["bin_from"] for row in expands] == pytest.approx([-0.15, 0, 0.25, 0.5, 1])
    assert [row["bin_to"] for row in expands[:-1]] == pytest.approx([-0.1, 0.05, 0.3, 0.55])
    assert expands[-1]["bin_to"] is None
    assert sum(row["share"] for row in rows) == pytest.approx(4)


def test_value_histogram_of_zeros(tmp_path: Path) -> None:
    measured = [Measured("expand", 1, 4, 0.0), Measured("expand", 1, 5, 0.0)]
    store = write_store(tmp_path / "zeros", [Trajectory("zeros", "train", measured)])
    (row,) = run_analysis(connect(store.at()), "value_histogram")
    assert picked(row, "bin_from", "bin_to", "bin_centre", "num_labels", "share") == [0, 0, 0, 2, 1]


def test_value_by_distance(connection: Connection) -> None:
    rows = run_analysis(connection, "value_by_distance")
    # The level-1 expands are 32 to 48 tokens away, the level-0 collapses 24 and 28.
    expands = pick(rows, action="expand", entry_level=1)
    assert picked(expands, "distance_from", "distance_to", "num_labels", "num_documents") == [32, 64, 8, 2]
    assert picked(expands, "p25", "p50", "p75") == [0, 0.25, 0.5]
    # a's weights are 8 in all, its values 1.75, b's 4 and 2: off the mean of 0.3125 by 0.75 either way.
    assert picked(expands, "mean", "mean_stderr") == pytest.approx([0.3125, sqrt(2 * 2 * 0.75**2) / 12])
    collapses = pick(rows, action="collapse", entry_level=0)
    assert picked(collapses, "distance_from", "distance_to", "mean", "p50") == [0, 32, 0.25, 0]
    assert collapses["mean_stderr"] is None


def test_distance_bins_double(tmp_path: Path) -> None:
    # Ends of the nodes at 68, 96, 100, 124 and 128 tokens, 128 the cursor.
    measured = [Measured("expand", 1, index, 0.25) for index in (15, 16, 23, 24, 31)]
    store = write_store(tmp_path / "far", [Trajectory("far", "train", measured, cursors=(128,))])
    rows = run_analysis(connect(store.at()), "value_by_distance")
    assert [picked(row, "distance_from", "distance_to", "num_labels") for row in rows] == [
        [0, 32, 2], [32, 64, 2], [64, 128, 1],
    ]  # fmt: skip


def test_target_utilities(connection: Connection) -> None:
    rows = run_analysis(connection, "target_utilities")
    literal = pick(rows, target="literal", action="expand", entry_level=1)
    assert picked(literal, "num_labels", "num_without_utility") == [8, 0]
    assert literal["share_zero"] == pytest.approx((2 + 2) / 12)
    assert literal["mean"] == pytest.approx((2 * (0.5 + 0.25 + 0.25) + 2) / 12)
    assert picked(literal, "p05", "p50", "p95") == [0, 0.25, 1]
    # An edit costs 1/4 in a (test_shadow_prices), which leaves one expand 1/4; in b it costs 1, all zero.
    priced = pick(rows, target="priced", action="expand", entry_level=1)
    assert priced["share_zero"] == pytest.approx(10 / 12)
    assert priced["mean"] == pytest.approx(2 * 0.25 / 12)
    literal = pick(rows, target="literal", action="collapse", entry_level=0)
    assert picked(literal, "share_zero", "mean", "p05") == [0.5, -0.25, -0.5]
    priced = pick(rows, target="priced", action="collapse", entry_level=0)
    assert picked(priced, "share_zero", "mean", "p05") == pytest.approx([0.5, -0.125, -0.25])


def test_target_histogram(connection: Connection) -> None:
    rows = run_analysis(connection, "target_histogram")
    # The 98th percentile of |utility| other than zero is 1. Level-2 expands and collapses are in, too.
    assert [
        (row["target"], row["action"], round(row["bin_centre"], 3), row["num_labels"], round(row["share"], 6))
        for row in rows
    ] == [
        ("literal", "expand", 0.075, 1, round(1 / 13, 6)),
        ("literal", "expand", 0.275, 2, round(4 / 13, 6)),
        ("literal", "expand", 0.525, 1, round(2 / 13, 6)),
        ("literal", "expand", 1.025, 2, round(2 / 13, 6)),
        ("literal", "collapse", -0.475, 1, round(4 / 9, 6)),
        ("priced", "expand", 0.275, 1, round(2 / 13, 6)),
        ("priced", "collapse", -0.475, 1, round(1 / 9, 6)),
        ("priced", "collapse", -0.225, 1, round(4 / 9, 6)),
    ]


def test_shadow_prices(connection: Connection) -> None:
    # In a, at a price of 1/4, the expand of 1/2 is bought (weight 2) and the collapses of 0 and −1/4 are sold
    # (4 + 1); at the next lower price, 1/16, three expands are bought (6). In b, twice, there is nothing to
    # sell, so the price rises to the value of its best expand, 1.
    rows = run_analysis(connection, "shadow_prices")
    assert [row["percent"] for row in rows] == list(range(0, 101, 5))
    assert [row["edit_price"] for row in rows] == pytest.approx([0.25] * 7 + [1] * 14)
    assert picked(rows[0], "num_snapshots", "num_without_price", "num_zero") == [3, 0, 0]


def test_labels_without_a_price_are_counted_and_left_out(store: Store) -> None:
    connection = connect(store.at())
    connection.execute("set variable budget = 1")  # no price makes a's 37 entries fit in one position
    rows = run_analysis(connection, "target_utilities")
    priced = pick(rows, target="priced", action="expand", entry_level=1)
    assert picked(priced, "num_labels", "num_without_utility", "share_zero", "mean") == [8, 8, None, None]
    assert run_analysis(connection, "shadow_prices") == []


def test_top_labels(connection: Connection) -> None:
    rows = run_analysis(connection, "top_labels")
    assert [row["value_of_detail"] for row in rows] == [
        1, 0.5, 0.5, 0.25, 0.25, 0.0625, 0, 0, -0.125, -0.25,
    ]  # fmt: skip
    assert picked(rows[0], "action", "node_level", "node_index", "split") == ["expand", 1, 4, "test"]
    # Equal at both cursors: the first counts.
    assert picked(rows[0], "cursor", "distance_to_cursor", "num_cursors", "stderr") == [64, 44, 2, 0]
    assert {row["source"] for row in rows[1:3]} == {SCRIPT_SOURCE}


def test_value_by_source(connection: Connection) -> None:
    rows = run_analysis(connection, "value_by_source")
    of_a = pick(rows, source=SCRIPT_SOURCE)
    assert picked(of_a, "split", "num_labels", "num_snapshots", "highest") == ["train", 8, 1, 0.5]
    assert of_a["mean"] == pytest.approx(3.5625 / 18)
    assert of_a["share_beyond"] == 6 / 8
    # b: 1 and 0, at two cursors, have a spread of 1/2; a's is smaller.
    assert rows[0]["source"] == ODD_SOURCE
    assert rows[0]["spread"] == pytest.approx(0.5)


def test_value_by_lag(connection: Connection) -> None:
    rows = [
        r
        for r in run_analysis(connection, "value_by_lag")
        if (r["action"], r["entry_level"]) == ("expand", 1)
    ]
    assert [picked(row, "lag_from", "lag_to") for row in rows] == [
        [0, 1], [1, 2], [2, 4], [4, 8], [8, 16], [16, 32],
    ]  # fmt: skip
    # At the cursor the wobbling label is worth −1/8 − 1, later its wobble cancels out.
    assert rows[0]["mean"] == pytest.approx((2 * (0.5 + 0.25 + 0.125 - 1.125) + 2) / 12)
    assert rows[-2]["mean"] == pytest.approx((2 * (0.5 + 0.25 + 0.125 - 0.125) + 2) / 12)
    assert rows[-1]["mean"] == pytest.approx((2 * (0.5 + 0.25 + 0.375 - 0.125) + 2) / 12)
    # Of 16 tokens a has 2 in all at weight 8, b 2 at weight 4: off the mean of 1/3 by 2/3 either way.
    assert rows[-1]["mean_stderr"] == pytest.approx(sqrt(2 * 2 * (2 / 3) ** 2) / 12)
    assert rows[-1]["mean_abs"] == pytest.approx((2 * (0.5 + 0.25 + 0.375 + 0.125) + 2) / 12)
    assert rows[-1]["share_of_horizon"] == pytest.approx(64 / 120)
    assert rows[-1]["num_labels"] == 8


def test_value_by_horizon(connection: Connection) -> None:
    rows = run_analysis(connection, "value_by_horizon")
    collapses = [r for r in rows if (r["action"], r["entry_level"]) == ("collapse", 0)]
    assert [row["horizon"] for row in collapses] == [1, 2, 4, 8, 16, 32]
    assert picked(collapses[0], "median_stderr", "share_beyond") == [None, None]
    assert picked(collapses[-2], "num_labels", "mean", "median_abs", "share_beyond") == [2, 0.375, 0.375, 0.5]
    assert collapses[-2]["spread"] == pytest.approx(0.75 / sqrt(2))
    assert collapses[-1]["mean"] == 0.25
    assert collapses[-1]["median_stderr"] == pytest.approx(0.25 / sqrt(31) / 2)


@pytest.mark.parametrize("horizon", [2, 16, 32])
def test_value_by_horizon_agrees_with_labels_at_that_horizon(connection: Connection, horizon: int) -> None:
    for row in run_analysis(connection, "value_by_horizon"):
        if row["horizon"] == horizon:
            (expected,) = connection.execute(
                "select avg(value_of_detail), median(stderr), "
                "avg((abs(delta_nll) > 2 * greatest(stderr, hac_stderr))::int) "
                f"from labels_at({horizon}) where action = ? and entry_level = ?",
                [row["action"], row["entry_level"]],
            ).fetchall()
            assert picked(row, "mean", "median_stderr", "share_beyond") == pytest.approx(expected, abs=1e-6)


def test_literal_against_priced(connection: Connection) -> None:
    expand, collapse = run_analysis(connection, "literal_against_priced")
    # Literal leaves the wobbling expand and b's two zeros, priced all but a's best (test_target_utilities).
    assert picked(expand, "num_labels", "num_snapshots", "num_rankings") == [9, 3, 1]
    assert picked(expand, "share_zero_literal", "share_zero_priced") == pytest.approx([3 / 9, 8 / 9])
    assert picked(expand, "share_only_literal", "share_only_priced") == pytest.approx([5 / 9, 0])
    # a's five: ranks 5, 2½ four times under priced; 5, 3½, 3½, 1, 2 under literal.
    assert expand["spearman"] == pytest.approx(5 / sqrt(5 * 9.5))
    assert picked(collapse, "share_zero_literal", "share_zero_priced") == pytest.approx([2 / 3, 1 / 3])
    assert picked(collapse, "share_only_literal", "share_only_priced") == pytest.approx([1 / 3, 2 / 3])
    assert picked(collapse, "spearman", "num_rankings") == [None, 0]


def test_literal_and_priced_put_collapses_in_opposite_order(tmp_path: Path) -> None:
    # Each but the dearest is sold; literal calls the dearest worst, priced the cheapest.
    collapses = [Measured("collapse", 1, 8 + i, (i + 1) / 16) for i in range(4)]
    expands = [Measured("expand", 1, 4 + i, 2.0) for i in range(4)]
    store = write_store(tmp_path / "opposite", [Trajectory("opposite", "train", [*expands, *collapses])])
    row = pick(run_analysis(connect(store.at()), "literal_against_priced"), action="collapse")
    assert row["spearman"] == pytest.approx(-1)


def test_gist_damage(tmp_path: Path) -> None:
    measured = [
        Measured("collapse", 1, 8, 0.5), Measured("drop", 1, 8, 0.25),
        Measured("collapse", 1, 9, 0.0), Measured("drop", 1, 9, 1.0),
        Measured("expand", 1, 4, 0.5), Measured("drop", 1, 4, 0.5),
        Measured("expand", 1, 5, 0.5),
    ]  # fmt: skip
    store = write_store(tmp_path / "drops", [Trajectory("drops", "train", measured)])
    rows = run_analysis(connect(store.at()), "gist_damage")
    # Texts worth 1/4, 1 and 1 whose gists are worth −1/4, 1 and 1/2; the fourth was not left out.
    assert [picked(row, "text_level", "tenth", "num_labels") for row in rows] == [
        [0, 1, 1],
        [0, 2, 1],
        [0, 3, 1],
    ]
    assert [row["information_value"] for row in rows] == [0.25, 1, 1]
    assert [row["gist_value"] for row in rows] == [-0.25, 1, 0.5]
    assert [row["damage"] for row in rows] == [0.5, 0, 0.5]
    assert [row["share_worse_than_nothing"] for row in rows] == [1, 0, 0]
    assert [row["kept_share"] for row in rows] == [-1, 1, 0.5]


def test_additivity_gap(tmp_path: Path) -> None:
    actions = [
        {"action": "expand", "node_level": 2, "node_index": 0},
        {"action": "collapse", "node_level": 1, "node_index": 5},
    ]
    store = synthetic_store(tmp_path)
    for name, joint, singles in (("x", -0.25, [-0.5] * 4 + [-2.5] * 4), ("y", -1.0, [-1.0] * 4 + [1.0] * 4)):
        row = {"trajectory_id": name, "actions": actions, "first_token": 32, "delta_nll": [joint] * 8,
               "sum_of_singles": singles, "status": "ok"}  # fmt: skip
        add_trajectory(store, name, "a", [], joint_effects=[row])
    (found,) = run_analysis(connect(store.at()), "additivity_gap")
    joint, sums = [-0.25, -0.25, -1, -1], [-0.5, -2.5, -1, 1]
    assert picked(found, "num_actions", "num_sets", "num_documents") == [2, 4, 1]
    assert picked(found, "mean_abs_joint", "mean_gap", "mean_abs_gap") == [0.625, 0.125, 1.125]
    assert found["sign_agreement"] == 0.75
    assert found["pearson"] == pytest.approx(np.corrcoef(joint, sums)[0, 1])
    assert found["slope"] == pytest.approx(np.polyfit(sums, joint, 1)[0])


def test_estimator_audit(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path)
    cheap = {"estimator": "windowed", "estimator_window": 64}
    readings = [(4, -1.0, -1.5), (5, -2.0, -1.0), (6, -3.0, -3.0), (7, -4.0, -5.0)]
    effects = [effect("expand", 1, index, 32, [exact] * 4) for index, exact, _ in readings]
    effects += [effect("expand", 1, index, 32, [windowed] * 4, **cheap) for index, _, windowed in readings]
    add_trajectory(store, "audited", "a", effects, cursors=(32,))
    (row,) = run_analysis(connect(store.at()), "estimator_audit")
    assert picked(row, "estimator_window", "action", "entry_level", "num_audited") == [64, "expand", 1, 4]
    assert row["spearman"] == pytest.approx(0.8)  # ranks 4 3 2 1 against 3 4 2 1
    assert picked(row, "sign_agreement", "mae", "bias", "p95_error") == [1, 0.625, -0.125, 1]
    assert row["median_abs_exact"] == 2.5


def test_baseline_agreement(connection: Connection) -> None:
    rows = run_analysis(connection, "baseline_agreement")
    assert {row["baseline"] for row in rows} == {"recency"}  # nobody kept the attention
    kind, snapshot = rows
    # a's level-1 expands are worth 4, 2½, 2½, 1 and come nearer and nearer.
    assert picked(kind, "scope", "num_documents", "num_rankings", "stderr") == ["kind", 1, 1, None]
    assert kind["spearman"] == pytest.approx(-4.5 / sqrt(5 * 4.5))
    near_first = spearmanr(
        [-44, -40, -36, -32, -48, -28, -24, -32], [0.5, 0.25, 0.25, -0.125, 0.0625, 0.5, 0, -0.25]
    )
    assert snapshot["spearman"] == pytest.approx(near_first.statistic)


def test_baseline_agreement_with_attention(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path)
    effects = [
        effect("expand", 1, 4 + i, 32, [-value] * 4, first_entry=i, num_entries=1)
        for i, value in enumerate([1.0, 2.0, 3.0, 4.0])
    ]
    attention = {"trajectory_id": "seen", "attention_mass": [0.1, 0.2, 0.4, 0.3], "status": "ok"}
    add_trajectory(store, "seen", "a", effects, cursors=(32,), attention=[attention])
    row = pick(
        run_analysis(connect(store.at()), "baseline_agreement"), baseline="attention_mass", scope="kind"
    )
    assert row["spearman"] == pytest.approx(0.8)


def test_shadow_prices_over_time(connection: Connection) -> None:
    first, last = run_analysis(connection, "shadow_prices_over_time")
    # At 64 a's price of 1/4 and b's of 1, at 68 b's again (test_shadow_prices).
    assert picked(first, "cursor_from", "cursor_to", "num_snapshots", "num_without_price") == [64, 65, 2, 0]
    assert picked(first, "mean_num_entries", "mean", "p50", "share_free") == pytest.approx(
        [37, 0.625, 0.25, 0]
    )
    assert picked(last, "cursor_from", "num_snapshots", "mean_num_entries", "mean") == pytest.approx(
        [68, 1, 41, 1]
    )


def test_value_by_token_class(tmp_path: Path) -> None:
    measured = [Measured("expand", 1, 4, 0.5, 1.0), Measured("expand", 1, 5, 0.0)]
    text = "".join(map(chr, range(7)))
    words = [{"tokenizer_hash": TOKENIZER_HASH, "token_id": i, "text": text}
             for i, text in enumerate([" the", "ing", " 42", "\n", "  ", "()"])]  # fmt: skip
    trajectory = Trajectory("classes", "train", measured, text=text)
    store = write_store(tmp_path / "classes", [trajectory], words)
    rows = run_analysis(connect(store.at()), "value_by_token_class")
    # Tokens are 0 … 6 again and again, and 6 is in no vocabulary; the horizon is tokens 64 to 95.
    horizon = [token % 7 for token in range(64, 96)]
    values = [0.5] * 16 + [1.0] * 16
    for token_id, name in enumerate(
        ["word", "continuation", "number", "newline", "space", "punctuation", "unknown"]
    ):
        row = pick(rows, token_class=name)
        theirs = [value for value, token in zip(values, horizon, strict=True) if token == token_id]
        assert row["num_tokens"] == 2 * len(theirs)
        assert row["mean"] == pytest.approx(sum(theirs) / len(theirs) / 2)
        assert row["share_of_value"] == pytest.approx(sum(theirs) / 24)
        assert row["mean_stderr"] is None  # one document


def test_value_by_token_class_takes_most_labels(connection: Connection) -> None:
    rows = run_analysis(connection, "value_by_token_class", most_labels=3)
    assert sum(row["num_tokens"] for row in rows) == 3 * 32


@pytest.mark.parametrize("name", ANALYSES)
def test_a_store_without_labels_is_no_error(stores_without_labels: list[Store], name: str) -> None:
    for store in stores_without_labels:
        with connect(store.at()) as connection:
            add_scores(connection, [])
            assert len(run_analysis(connection, name)) <= 1


@pytest.mark.parametrize("name", [name for name in ANALYSES if name not in READ_TARGETS | READ_SCORES])
def test_every_analysis_runs_in_the_users_sandbox(store: Store, name: str) -> None:
    answer = run_user_sql(connect(store.at()), read_analysis(name))
    assert answer.num_rows > 0 or name in READ_WHAT_THIS_STORE_LACKS


@pytest.mark.parametrize("name", ANALYSES)
def test_every_header_says_what_a_row_means(name: str) -> None:
    first, *_ = read_analysis(name).splitlines()
    assert first.startswith(f"-- {name}: ")
    assert " row" in read_analysis(name).split("\n\n")[0]


def test_a_variable_does_not_outlive_its_analysis(connection: Connection) -> None:
    run_analysis(connection, "signal", horizon=16)
    assert {row["horizon"] for row in run_analysis(connection, "signal")} == {32}


def test_the_synthetic_maps_are_whole(connection: Connection) -> None:
    """N is 1 + 4 + 32 entries at the first cursor, and 4 more at the second of b."""
    lengths = connection.sql("select num_entries from snapshots order by snapshot_id").fetchall()
    assert lengths == [(37,), (37,), (41,)]
    assert len(BY_HAND) == 3
