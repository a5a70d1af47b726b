"""The best edits there are, found by looking at all of them: what the greedy allocator is held against.

For some twenty candidates at most; the number of sets grows with their number to the power of the edits.
"""

from itertools import combinations

import numpy as np

from mctrace.context.actions import Action
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.lod_map import LODMap


def total_wish(edits: tuple[Action, ...], candidates: Candidates) -> float:
    """What a set of edits is worth: the sum of its expands' scores less that of its collapses' scores.

    Under the target `priced` it is the value of detail won, less the value given up, less the shadow price of
    the positions taken.
    """
    wish = {candidates.actions.action(i): _wish(candidates, i) for i in range(len(candidates))}
    return sum(wish[action] for action in edits)


def best_edits(lod_map: LODMap, candidates: Candidates, budget: int, num_edits: int) -> tuple[Action, ...]:
    """The set of at most `num_edits` edits with the largest total wish after which the budget holds.

    Thresholds, cooldown and hysteresis do not bind it. Where `num_edits` is too few for the budget, as many
    as it takes. Empty when nothing is worth doing, or nothing can be done.
    """
    room = budget - lod_map.num_entries
    positions = lod_map.tree.block_size - 1
    fewest = max(0, -(room // positions))
    best: tuple[int, ...] = ()
    best_wish = 0.0 if room >= 0 else -np.inf
    wish_A = [_wish(candidates, i) for i in range(len(candidates))]
    for size in range(fewest, max(num_edits, fewest) + 1):
        for chosen in combinations(range(len(candidates)), size):
            worth = sum(wish_A[i] for i in chosen)
            if worth > best_wish and _is_possible(lod_map, candidates, chosen, room):
                best, best_wish = chosen, worth
    return tuple(candidates.actions.action(i) for i in best)


def _wish(candidates: Candidates, i: int) -> float:
    return float(candidates.score_A[i] if candidates.is_expand_A[i] else -candidates.score_A[i])


def _is_possible(lod_map: LODMap, candidates: Candidates, chosen: tuple[int, ...], room: int) -> bool:
    actions = [candidates.actions.action(i) for i in chosen]
    if sum(action.change_in_positions(lod_map.tree) for action in actions) > room:
        return False
    expanded = {action.node for action in actions if action.kind == "expand"}
    collapses = (action.node for action in actions if action.kind == "collapse")
    return all(expanded.isdisjoint(lod_map.tree.children(node)) for node in collapses)
