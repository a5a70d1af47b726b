"""Exhaustive allocator: the best edits there are, the reference for the focus allocator's greedy choice.

It tries every set of edits, so it takes some twenty candidates at most: the number of sets grows with the
number of candidates to the power of the number of edits.
"""

from itertools import combinations

import numpy as np

from mctrace.context.actions import Action
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape


def total_wish(edits: tuple[Action, ...], candidates: Candidates) -> float:
    """Total score of a set of edits: the sum over its expands less the sum over its collapses.

    Under the target `priced` it is the value of detail gained, less the value given up, less the shadow price
    of the positions taken.
    """
    wish = {candidates.actions.action(i): _wish(candidates, i) for i in range(len(candidates))}
    return sum(wish[action] for action in edits)


def best_edits(lod_map: LODMap, candidates: Candidates, budget: int, num_edits: int) -> tuple[Action, ...]:
    """The set of at most `num_edits` edits with the largest total wish after which the budget holds.

    Thresholds, cooldown and hysteresis do not apply. Where `num_edits` is too few for the budget, as many as
    it takes. Empty when no edit is worth making, or none is possible.
    """
    room = budget - lod_map.num_entries
    most = max((int(at) for at in candidates.positions_A[~candidates.is_expand_A]), default=1)
    fewest = max(0, -(room // most))
    best: tuple[int, ...] = ()
    best_wish = 0.0 if room >= 0 else -np.inf
    wish_A = [_wish(candidates, i) for i in range(len(candidates))]
    for size in range(fewest, max(num_edits, fewest) + 1):
        for chosen in combinations(range(len(candidates)), size):
            worth = sum(wish_A[i] for i in chosen)
            if worth > best_wish and _is_possible(lod_map, candidates, chosen, room):
                best, best_wish = chosen, worth
    return tuple(candidates.actions.action(i) for i in best)


def compare_greedy(config: AllocatorConfig, num_cases: int = 400) -> dict[str, float]:
    """Share of the best total wish that the greedy allocator reaches, on small contexts of random scores.

    Scores are standard normal; `share_optimal` is how often the greedy choice is as good as the best.
    """
    tree = TreeShape(4, 2)
    reached, best_of = [], []
    for seed in range(num_cases):
        generator = np.random.default_rng(seed)
        levels = np.repeat(generator.permutation([2, 1, 0]), 4).astype(np.uint8)
        lod_map = LODMap(tree, 0, 48, levels)
        candidates = candidates_of(lod_map, 0)
        candidates.score_A[:] = generator.normal(size=len(candidates))
        budget = lod_map.num_entries - int(generator.integers(0, 4))
        done = allocate(lod_map, candidates, budget, config)
        reached.append(total_wish(done.edits, candidates))
        best_of.append(total_wish(best_edits(lod_map, candidates, budget, config.num_edits), candidates))
    optimal = np.isclose(reached, best_of)
    return {
        "num_cases": num_cases,
        "share_of_best": float(np.sum(reached) / np.sum(best_of)),
        "share_optimal": float(optimal.mean()),
    }


def _wish(candidates: Candidates, i: int) -> float:
    return float(candidates.score_A[i] if candidates.is_expand_A[i] else -candidates.score_A[i])


def _is_possible(lod_map: LODMap, candidates: Candidates, chosen: tuple[int, ...], room: int) -> bool:
    actions = [candidates.actions.action(i) for i in chosen]
    if sum(action.change_in_positions(lod_map.tree) for action in actions) > room:
        return False
    replaced = [entry for action in actions for entry in action.entries(lod_map.tree)]
    return len(set(replaced)) == len(replaced)
