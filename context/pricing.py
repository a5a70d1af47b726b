"""Shadow price of a position: from values of detail to signed scores for the focus allocator.

A value of detail is the gain of an expand or the cost of a collapse, and nearly always above 0. An expand is
worthwhile if a cheaper collapse makes room for it. One price per context decides that: the price at which the
positions bought by expands match those freed by collapses. It is the shadow price of the target `priced`,
computed here from predicted values instead of labels.
"""

from dataclasses import replace

import numpy as np

from mctrace.context.allocator_candidates import Candidates


def subtract_price(candidates: Candidates, room: int, positions: int) -> Candidates:
    """Candidates scored by value of detail minus the shadow price of the positions that each takes or frees.

    `room` is the number of positions by which the context may grow (negative: must shrink), `positions` the
    number that one action takes or frees: K - 1.
    """
    price = shadow_price(candidates, room, positions)
    return replace(candidates, score_A=candidates.score_A - price)


def shadow_price(candidates: Candidates, room: int, positions: int) -> float:
    """The price of `positions` positions, in score units, at which the worthwhile edits fit `room`.

    Definition: `datasets/sql/views/balancing_prices.sql`. The smallest λ >= 0 at which the expands worth more
    than λ, minus the collapses that cost less than λ, take at most `room`; the highest value if there is
    none.
    """
    gains = candidates.score_A[candidates.is_expand_A]
    costs = candidates.score_A[~candidates.is_expand_A]
    just_above = np.nextafter(costs, np.inf)
    prices = np.unique(np.concatenate([[0.0], gains, just_above]).clip(min=0))
    num_bought = len(gains) - np.searchsorted(np.sort(gains), prices, side="right")
    num_sold = np.searchsorted(np.sort(costs), prices, side="left")
    fits = positions * (num_bought - num_sold) <= room
    price = float(prices[int(np.argmax(fits)) if fits.any() else -1])
    dearer = candidates.score_A[candidates.score_A > price]
    # Any price up to the next value selects the same edits; the midpoint keeps a margin on both sides.
    return (price + float(dearer.min())) / 2 if price and len(dearer) else price
