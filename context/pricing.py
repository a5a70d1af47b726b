"""What a position costs while edits are chosen: from values of detail to scores for the focus allocator.

A value of detail says what an expand gains or a collapse costs; both are above 0 nearly everywhere. What is
worth doing depends on everything else: an expand pays if a collapse that costs less makes room for it. That
is settled by one price at which what is worth buying fits what is worth selling: the shadow price of the
target `priced`, found here from the values at hand instead of from labels.
"""

from dataclasses import replace

import numpy as np

from mctrace.context.allocator_candidates import Candidates


def subtract_price(candidates: Candidates, room: int, positions: int) -> Candidates:
    """Candidates scored by values of detail, less the price of the positions that each takes or frees.

    `room` is what the working context may grow by (negative: has to shrink by), `positions` what one action
    takes or frees: K - 1.
    """
    price = shadow_price(candidates, room, positions)
    return replace(candidates, score_A=candidates.score_A - price)


def shadow_price(candidates: Candidates, room: int, positions: int) -> float:
    """The price of `positions` positions, in the scores' unit, at which the edits worth it fit `room`.

    Definition: `datasets/sql/views/balancing_prices.sql`. The smallest λ >= 0 at which the expands worth more
    than λ, less the collapses that cost less, take no more than `room`; the highest value where none does.
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
    # Any price up to the next value asks for the same edits; halfway, the last of them is clearly wanted.
    return (price + float(dearer.min())) / 2 if price and len(dearer) else price
