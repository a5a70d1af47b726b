"""Ranking accuracy and Kendall's tau, exact in O(n log n) instead of over all pairs."""

import math

import numpy as np
from numpy.typing import NDArray


def ordered_pairs(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[int, int]:
    """(correctly ordered pairs, ordered pairs): of the pairs with y_i > y_j, the number with s_i > s_j.

    Definition: docs/specification/metrics.md#ranking-accuracy. A tie in the scores counts as wrong, a tie in
    the targets is no pair.
    """
    num_items = len(targets)
    total = num_items * (num_items - 1) // 2 - _tied(targets)
    # Targets ascending; among equal targets, scores descending, so that such pairs do not ascend.
    sequence = scores[np.lexsort((-scores, targets))]
    # Ranks without ties: the later of equal scores gets the lower rank, so that such pairs do not ascend.
    rank = np.empty(num_items, dtype=np.int64)
    rank[np.lexsort((-np.arange(num_items), sequence))] = np.arange(num_items)
    return _ascending_pairs(rank), total


def kendall_tau_b(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Kendall's τ_b as (numerator, denominator): (C − D, √((n₀ − n₁)(n₀ − n₂))); undefined at denominator 0.

    C and D count concordant and discordant pairs, n₀ all pairs, n₁ and n₂ those tied in targets and scores.
    """
    num_items = len(targets)
    correct, ordered = ordered_pairs(scores, targets)
    pairs = num_items * (num_items - 1) // 2
    tied_scores, tied_both = _tied(scores), _tied(np.stack([scores, targets], axis=1))
    wrong = ordered - correct - (tied_scores - tied_both)
    return float(correct - wrong), math.sqrt(float(ordered) * float(pairs - tied_scores))


def _tied(values: NDArray[np.float64]) -> int:
    """Number of pairs of equal values (or equal rows)."""
    if not len(values):
        return 0
    repeats = np.unique(values, axis=0, return_counts=True)[1]
    return int((repeats * (repeats - 1) // 2).sum())


def _ascending_pairs(ranks: NDArray[np.int64]) -> int:
    """Number of positions a < b with ranks[a] < ranks[b], for distinct non-negative ranks, by merge sort."""
    size = 1 << max(len(ranks) - 1, 0).bit_length()
    # Padded with descending negative values, which form no ascending pair.
    block = np.concatenate([ranks, -1 - np.arange(size - len(ranks))]).reshape(-1, 1)
    found = 0
    while len(block) > 1:
        halves = block.reshape(len(block) // 2, -1)
        width = halves.shape[1] // 2
        order = np.argsort(halves, axis=1, kind="stable")
        # Merging moves an element of the right half by the number of larger elements in the left half.
        places = np.where(order >= width, np.arange(2 * width), 0).sum()
        found += int(places) - len(halves) * (width * (width - 1) // 2)
        block = np.take_along_axis(halves, order, axis=1)
    return found
