"""Shadow price of a position: from values of detail to signed scores for the focus allocator.

A value of detail is the gain of an expand or the cost of a collapse, and nearly always above 0. An expand is
worthwhile if a cheaper collapse makes room for it. One price per context decides that: the price at which the
positions bought by expands and inserts match those freed by collapses and drops. It is the shadow price of
the target `priced`, computed here from predicted values instead of labels.
"""

from dataclasses import replace

import numpy as np

from mctrace.context.allocator_candidates import Candidates, FloatArray
from mctrace.context.lod_map import IntArray


def subtract_price(candidates: Candidates, room: int) -> Candidates:
    """Candidates scored by value of detail minus the shadow price of the positions that each takes or frees.

    `room` is the number of positions by which the context may grow (negative: must shrink).
    """
    if not len(candidates):
        return candidates
    share_A = candidates.positions_A / candidates.positions_A.max()
    return replace(candidates, score_A=candidates.score_A - shadow_price(candidates, room) * share_A)


def shadow_price(candidates: Candidates, room: int) -> float:
    """The price of as many positions as the dearest action takes, in score units, at which the worthwhile
    edits fit `room`; 0 without candidates.

    Definition: `datasets/sql/views/balancing_prices.sql`. The smallest λ >= 0 at which the positions of the
    expands and inserts worth more than λ a position, minus those of the collapses and drops that cost less,
    are at most `room`; the highest value if there is none.
    """
    if not len(candidates):
        return 0.0
    # In units of the dearest action: with equal costs values are compared as they are.
    worth_A = candidates.score_A * (candidates.positions_A.max() / candidates.positions_A)
    is_expand_A = candidates.is_expand_A
    gains, costs = worth_A[is_expand_A], worth_A[~is_expand_A]
    prices = np.unique(np.concatenate([[0.0], gains, np.nextafter(costs, np.inf)]).clip(min=0))
    bought = _weight_above(gains, candidates.positions_A[is_expand_A], prices)
    kept = _weight_above(np.nextafter(costs, np.inf), candidates.positions_A[~is_expand_A], prices)
    sold = candidates.positions_A[~is_expand_A].sum() - kept
    fits = bought - sold <= room
    price = float(prices[int(np.argmax(fits)) if fits.any() else -1])
    dearer = worth_A[worth_A > price]
    # Any price up to the next value selects the same edits; the midpoint keeps a margin on both sides.
    return (price + float(dearer.min())) / 2 if price and len(dearer) else price


def _weight_above(worths: FloatArray, weights: IntArray, prices: FloatArray) -> IntArray:
    """Sum of the weights whose worth is above each price."""
    order = np.argsort(worths, kind="stable")
    up_to = np.concatenate([[0], np.cumsum(weights[order])])
    return np.asarray(up_to[-1] - up_to[np.searchsorted(worths[order], prices, side="right")])
