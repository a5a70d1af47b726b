"""Paired bootstrap and Holm's correction, against values worked out by hand."""

import numpy as np
import pytest

from experiments.proof.statistics import NUM_DRAWS, compare_all, resampled_means, two_sided
from mctrace.errors import InputError


def normal(mean: float, count: int = 30, seed: int = 0) -> dict[str, float]:
    values = np.random.default_rng(seed).normal(size=count)
    return {f"d{i}": float(v) for i, v in enumerate((values - values.mean()) / values.std() + mean)}


def test_one_comparison_is_a_plain_bootstrap_interval():
    values = normal(0.5)
    (found,) = compare_all([values])
    low, high = np.quantile(resampled_means(values), [0.025, 0.975])
    assert (found.low, found.high) == (low, high)
    assert found.mean == pytest.approx(0.5)
    assert found.num_documents == 30
    # The mean of 30 standard normal values has the standard deviation 1 / sqrt(30).
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(30), rel=0.1)


def test_the_order_of_documents_does_not_matter():
    values = normal(0.3)
    assert compare_all([values]) == compare_all([dict(reversed(values.items()))])


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons_and_so_on():
    differences = [normal(mean, seed=seed) for seed, mean in enumerate((0.2, 0.45, 0.0, 0.38))]
    raw = [two_sided(resampled_means(values)) for values in differences]
    found = compare_all(differences)
    order = np.argsort(raw)
    expected, largest = {}, 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, raw[i] * (4 - rank)))
        expected[int(i)] = largest
    assert [one.p for one in found] == [expected[i] for i in range(4)]
    assert sorted(raw) != sorted(expected.values())
    assert [one.mean for one in found] == pytest.approx([0.2, 0.45, 0.0, 0.38])
    widths = [found[i].high - found[i].low for i in order]
    assert widths[0] > widths[3]


def test_a_p_is_never_zero_and_an_interval_clear_of_zero_goes_with_a_small_one():
    assert two_sided(np.ones(NUM_DRAWS)) == pytest.approx(2 / (NUM_DRAWS + 1))
    for found in compare_all([normal(2.0), normal(0.05, seed=1)]):
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no document"):
        compare_all([{}])
