"""How many pairs a scorer puts in the right order, counted exactly without looking at every pair."""

import math

import numpy as np
from numpy.typing import NDArray


def ordered_pairs(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[int, int]:
    """(pairs in the right order, pairs that have an order): of those with y_i > y_j, how many have s_i > s_j.

    Definition: docs/specification/metrics.md#ranking-accuracy; a tie in the scores is wrong, a tie in the
    targets is no pair. Two sorts and one merge sort instead of n² comparisons.
    """
    num_items = len(targets)
    total = num_items * (num_items - 1) // 2 - _tied(targets)
    # Worst target first; among equal targets the highest score first, so that no such pair ascends.
    sequence = scores[np.lexsort((-scores, targets))]
    # Ranks without ties: of equal scores the later gets the lower rank, so that no such pair ascends either.
    rank = np.empty(num_items, dtype=np.int64)
    rank[np.lexsort((-np.arange(num_items), sequence))] = np.arange(num_items)
    return _ascending_pairs(rank), total


def kendall_tau_b(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Kendall's τ_b as (C − D, √((n₀ − n₁)(n₀ − n₂))): their ratio, which 0 in the second leaves undefined.

    C and D are the pairs ordered alike and oppositely; n₀ is the number of pairs, n₁ and n₂ those tied in
    the targets and in the scores.
    """
    num_items = len(targets)
    correct, ordered = ordered_pairs(scores, targets)
    pairs = num_items * (num_items - 1) // 2
    tied_scores, tied_both = _tied(scores), _tied(np.stack([scores, targets], axis=1))
    wrong = ordered - correct - (tied_scores - tied_both)
    return float(correct - wrong), math.sqrt(float(ordered) * float(pairs - tied_scores))


def _tied(values: NDArray[np.float64]) -> int:
    """Pairs of equal values (or equal rows)."""
    if not len(values):
        return 0
    repeats = np.unique(values, axis=0, return_counts=True)[1]
    return int((repeats * (repeats - 1) // 2).sum())


def _ascending_pairs(ranks: NDArray[np.int64]) -> int:
    """Pairs of positions a < b with ranks[a] < ranks[b], for distinct non-negative ranks; a merge sort."""
    size = 1 << max(len(ranks) - 1, 0).bit_length()
    # Padded with ever lower values, which ascend from nothing.
    block = np.concatenate([ranks, -1 - np.arange(size - len(ranks))]).reshape(-1, 1)
    found = 0
    while len(block) > 1:
        halves = block.reshape(len(block) // 2, -1)
        width = halves.shape[1] // 2
        order = np.argsort(halves, axis=1, kind="stable")
        # An element of the right half moves up by as many places as left ones are smaller.
        places = np.where(order >= width, np.arange(2 * width), 0).sum()
        found += int(places) - len(halves) * (width * (width - 1) // 2)
        block = np.take_along_axis(halves, order, axis=1)
    return found
