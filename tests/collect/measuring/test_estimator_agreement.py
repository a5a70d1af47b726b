"""Agreement of two estimators, against figures worked out by hand."""

import pytest

from mctrace.collect.measuring.estimator_agreement import LabelPair, compare_estimators


def pairs(values, action="collapse", level=1):
    return [LabelPair(action, level, exact, estimated) for exact, estimated in values]


def test_figures_of_one_stratum_by_hand():
    found = compare_estimators(pairs([(1.0, 2.0), (-1.0, 1.0), (3.0, 2.5), (0.5, -0.5)]))
    # ranks of the exact labels 3 1 4 2, of the windowed ones 3 2 4 1: sum of squared differences 2
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found.sign_agreement == pytest.approx(2 / 4)
    assert found.top_k_recall == 1.0
    assert found.mae == pytest.approx((1 + 2 + 0.5 + 1) / 4)
    assert found.num_actions == 4


def test_a_ranking_that_only_tells_actions_apart_earns_nothing():
    low = [(0.1 * i, -0.1 * i) for i in range(5)]
    high = [(10 + 0.1 * i, 10 - 0.1 * i) for i in range(5)]
    found = compare_estimators(pairs(low) + pairs(high, action="expand"))
    assert found.spearman == pytest.approx(-1.0)


def test_strata_count_by_their_sizes():
    agreeing = [(float(i), float(i)) for i in range(30)]
    opposed = [(float(i), -float(i)) for i in range(1, 11)]
    found = compare_estimators(pairs(agreeing) + pairs(opposed, level=2))
    assert found.spearman == pytest.approx((30 * 1 + 10 * -1) / 40)
    assert found.sign_agreement == pytest.approx(30 / 40)


def test_top_k_looks_at_size_not_sign():
    exact = [0.01 * i for i in range(19)] + [-5.0]
    windowed = [0.01 * i for i in range(19)] + [4.0]
    # k = 2 of 20: the -5 is found, and 0.18 as well
    assert compare_estimators(pairs(zip(exact, windowed, strict=True))).top_k_recall == 1.0


@pytest.mark.parametrize("values", [[], [(1.0, 1.0)], [(0.0, 0.0)] * 8])
def test_where_no_rank_correlation_exists_there_is_none(values):
    assert compare_estimators(pairs(values)).spearman is None
