"""Cumulative shares, calibration and standard errors of means, against plain Python."""

import math
from collections import defaultdict

import numpy as np
import pytest

from mctrace.analysis.questions.catalogue import Row, add_scores, run_analysis
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store


@pytest.fixture(scope="module")
def connection(store: Store):
    with connect(store.at()) as opened:
        yield opened


@pytest.fixture(scope="module")
def labels(connection) -> list[Row]:
    return fetch_rows(connection, "from labels order by snapshot_id, action, node_level, node_index")


def clustered_stderr(residuals: dict[str, list[float]], total: float) -> float:
    """sqrt(D / (D - 1) * sum over documents of (sum of its residuals)^2) / total."""
    sums = np.array([sum(found) for found in residuals.values()])
    return float(math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / total)


def test_cumulative_share_is_that_of_the_sorted_sizes(connection, labels):
    rows = [row for row in run_analysis(connection, "cumulative_share") if row["action"] is None]
    sizes = np.array([abs(row["value_of_detail"]) for row in labels])
    weights = np.array([1 / row["inclusion_probability"] for row in labels])
    order = np.argsort(-sizes, kind="stable")
    held = np.cumsum((sizes * weights)[order]) / (sizes * weights).sum()
    actions = np.cumsum(weights[order]) / weights.sum()
    assert rows[0]["num_labels"] == len(labels)
    assert rows[-1]["percent"] == 100
    assert rows[-1]["share_of_value"] == pytest.approx(1)
    for row in rows:  # between equal sizes the order is free, so the curve is compared as a curve
        assert row["share_of_value"] == pytest.approx(
            np.interp(row["share_of_actions"], [0, *actions], [0, *held]), abs=1e-9
        )
        assert row["percent"] - 1 - 1e-6 <= 100 * row["share_of_actions"] <= row["percent"] + 1e-6


def test_calibration_compares_tenths_of_scores_with_values(connection, labels):
    keys = ("snapshot_id", "action", "node_level", "node_index")
    scores = np.random.default_rng(0).normal(size=len(labels))
    rows = [
        {"scorer": "net", "score": float(score), **{key: label[key] for key in keys}}
        for score, label in zip(scores, labels, strict=True)
    ]
    add_scores(connection, rows)
    found = run_analysis(connection, "scorer_calibration")
    assert [row["tenth"] for row in found] == list(range(1, 11))
    assert sum(row["num_labels"] for row in found) == len(labels)
    assert any(row["num_documents"] > 1 for row in found)
    order, begin = np.argsort(scores), 0
    for row in found:
        tenth = order[begin : begin + row["num_labels"]]
        begin += row["num_labels"]
        values = np.array([labels[i]["value_of_detail"] for i in tenth])
        assert row["mean_score"] == pytest.approx(scores[tenth].mean())
        assert row["mean_value"] == pytest.approx(values.mean())
        residuals: dict[str, list[float]] = defaultdict(list)
        for i in tenth:
            residuals[labels[i]["document_id"]].append(labels[i]["value_of_detail"] - values.mean())
        assert row["num_documents"] == len(residuals)
        expected = clustered_stderr(residuals, len(tenth)) if len(residuals) > 1 else None
        assert row["value_stderr"] == (expected and pytest.approx(expected, abs=1e-12))
    add_scores(connection, [])
    assert run_analysis(connection, "scorer_calibration") == []


def test_the_error_of_a_mean_takes_documents_for_clusters(connection, labels):
    for row in run_analysis(connection, "value_distribution"):
        kind = [
            one
            for one in labels
            if (one["action"], one["entry_level"]) == (row["action"], row["entry_level"])
        ]
        residuals: dict[str, list[float]] = defaultdict(list)
        for one in kind:
            weight = 1 / one["inclusion_probability"]
            residuals[one["document_id"]].append(weight * (one["value_of_detail"] - row["mean"]))
        total = sum(1 / one["inclusion_probability"] for one in kind)
        if len(residuals) == 1:
            assert row["mean_stderr"] is None
        else:
            assert row["mean_stderr"] == pytest.approx(clustered_stderr(residuals, total), abs=1e-12)
