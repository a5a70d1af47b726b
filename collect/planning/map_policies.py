"""Trajectory policies: which LOD map a working context has when its entries are measured.

`recency` and `lod0` are fixed shapes; `random` walks through seeded edits, so that a store holds maps a
trained policy may meet but a fixed shape never has (a trained policy's own: `lensnet_policy.py`). All keep
the protected tail at level 0.
"""

from collections.abc import Sequence

import numpy as np

from mctrace.context.actions import Action, apply_action, legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError


def recency_map(tree: TreeShape, start: int, cursor: int, level_tokens: Sequence[int]) -> LODMap:
    """Newest `level_tokens[0]` tokens at level 0, the next `level_tokens[1]` at level 1, the rest coarsest.

    Whole nodes only: what a coarse node does not cover completely stays at the finer level.
    """
    lod_map = LODMap.of_tokens(tree, start, cursor)
    levels = np.array(lod_map.levels)
    newest_end = cursor
    for level in range(1, tree.max_level + 1):
        newest_end -= level_tokens[level - 1] if level <= len(level_tokens) else 0
        width, per_node = tree.span_width(level), tree.blocks_per_node(level)
        first_node, last_node = -(-start // width), newest_end // width
        if last_node > first_node:
            blocks = np.arange(first_node * per_node, last_node * per_node) - lod_map.first_block
            levels[blocks] = level
    return LODMap(tree, start, cursor, levels)


def recency_map_within(tree: TreeShape, start: int, cursor: int, budget: int, protected_tail: int) -> LODMap:
    """The recency map with the most detail that takes at most `budget` positions.

    First as much as possible of what is not the protected tail stands at level 1 rather than coarser, then as
    many of the newest blocks as fit stand as tokens. Raises LegalityError when not even the coarsest fits.
    """

    def fits(lod_map: LODMap) -> bool:
        return lod_map.num_entries <= budget

    block, coarsest = tree.block_size, tree.span_width(tree.max_level)
    middles = range(-(-(cursor - start) // coarsest) * coarsest, -1, -coarsest)
    found = (recency_map(tree, start, cursor, (protected_tail, middle)) for middle in middles)
    best = next(filter(fits, found), None)
    if best is None:
        coarse = recency_map(tree, start, cursor, (protected_tail, 0))
        raise LegalityError(
            f"tokens [{start}, {cursor}) take {coarse.num_entries} positions at their coarsest with a "
            f"protected tail of {protected_tail}, more than the budget of {budget}"
        )
    for first in range(cursor // block - 1, -(-start // block) - 1, -1):
        blocks = slice(first - best.first_block, len(best.levels))
        if best.levels[blocks.start] > 1:
            break
        finer = best.with_level(blocks, 0)
        if not fits(finer):
            break
        best = finer
    return best


def random_map(
    tree: TreeShape,
    start: int,
    cursor: int,
    *,
    target_length: int,
    protected_tail: int,
    num_iterations: int,
    generator: np.random.Generator,
) -> LODMap:
    """A stochastic compression of the level-0 window to at most `target_length` positions, if edits allow.

    First a random share of the coarsest nodes is shown whole and blocks collapse at random until the target
    is met. Each later round makes random expands and pays for them with random collapses, so that detail
    also appears far from the cursor.
    """
    lod_map = _with_some_coarsest(LODMap.of_tokens(tree, start, cursor), protected_tail, generator)
    lod_map = _collapse_to(lod_map, target_length, protected_tail, generator)
    for _ in range(num_iterations - 1):
        lod_map = _expand_some(lod_map, generator)
        lod_map = _collapse_to(lod_map, target_length, protected_tail, generator)
    return lod_map


def _with_some_coarsest(lod_map: LODMap, protected_tail: int, generator: np.random.Generator) -> LODMap:
    tree, level = lod_map.tree, lod_map.tree.max_level
    width = tree.span_width(level)
    nodes = range(-(-lod_map.start // width), (lod_map.cursor - protected_tail) // width)
    share = generator.random()
    for index in nodes:
        if generator.random() < share:
            lod_map = lod_map.with_level(lod_map.blocks_of(Node(level, index)), level)
    return lod_map


def _collapse_to(
    lod_map: LODMap, target_length: int, protected_tail: int, generator: np.random.Generator
) -> LODMap:
    while lod_map.num_entries > target_length:
        collapses = [a for a in legal_actions(lod_map, protected_tail) if a.kind == "collapse"]
        if not collapses:
            break
        # Several at once: every collapse of one round is legal alone and none shares a node with another.
        excess = lod_map.num_entries - target_length
        wanted = -(-excess // (lod_map.tree.block_size - 1))
        for i in generator.permutation(len(collapses))[:wanted]:
            lod_map = apply_action(lod_map, collapses[i])
    return lod_map


def _expand_some(lod_map: LODMap, generator: np.random.Generator) -> LODMap:
    """Expands a random quarter of the gists, at least one."""
    expands: list[Action] = [a for a in legal_actions(lod_map, 0) if a.kind == "expand"]
    if not expands:
        return lod_map
    for i in generator.permutation(len(expands))[: max(1, len(expands) // 4)]:
        lod_map = apply_action(lod_map, expands[i])
    return lod_map
