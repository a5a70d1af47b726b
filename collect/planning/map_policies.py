"""Trajectory policies: which LOD map a working context has when its entries are measured.

`recency` and `lod0` are fixed shapes, and `recency` that leaves old text out is truncation; `random` walks
through seeded edits, so that a store holds maps a trained policy may meet but a fixed shape never has (a
trained policy's own: `lensnet_policy.py`). All keep the protected tail at level 0.
"""

from collections.abc import Collection, Sequence

import numpy as np

from mctrace.context.actions import (
    ACTION_KINDS,
    Action,
    ActionArrays,
    apply_actions,
    legal_action_arrays,
)
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import ABSENT, Node, TreeShape
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


def truncation_map(tree: TreeShape, start: int, cursor: int, first_shown: int) -> LODMap:
    """Every block that ends at or before token `first_shown` is absent, the others are tokens."""
    num_absent = max(0, first_shown - start) // tree.block_size
    tokens = LODMap.of_tokens(tree, start, cursor)
    return tokens.with_level(slice(0, min(num_absent, len(tokens.levels) - 1)), ABSENT)


def recency_map_within(tree: TreeShape, start: int, cursor: int, budget: int, protected_tail: int) -> LODMap:
    """The recency map with the most detail that takes at most `budget` positions.

    First as much as possible of what is not the protected tail stands at level 1 rather than coarser, then as
    many of the newest blocks as fit stand as tokens. Where blocks may be absent, all older ones are.
    Raises LegalityError when not even the coarsest fits.
    """
    if tree.absence != "off" and budget >= protected_tail:
        oldest = -(-(cursor - budget) // tree.block_size) * tree.block_size
        truncated = truncation_map(tree, start, cursor, oldest)
        if truncated.num_positions <= budget and oldest <= cursor - protected_tail:
            return truncated

    def fits(lod_map: LODMap) -> bool:
        return lod_map.num_positions <= budget

    block, coarsest = tree.block_size, tree.span_width(tree.max_level)
    middles = range(-(-(cursor - start) // coarsest) * coarsest, -1, -coarsest)
    found = (recency_map(tree, start, cursor, (protected_tail, middle)) for middle in middles)
    best = next(filter(fits, found), None)
    if best is None:
        coarse = recency_map(tree, start, cursor, (protected_tail, 0))
        raise LegalityError(
            f"tokens [{start}, {cursor}) take {coarse.num_positions} positions at their coarsest with a "
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
    kinds: Collection[str] = ACTION_KINDS,
) -> LODMap:
    """A stochastic compression of the level-0 window to at most `target_length` positions, if edits allow.

    First a random share of the coarsest nodes is shown whole and blocks collapse at random until the target
    is met. Each later round makes random expands and pays for them with random collapses, so that detail
    also appears far from the cursor. Where blocks may be absent, inserts are among the expands and drops
    among the collapses; only actions of `kinds` are made.
    """
    lod_map = LODMap.of_tokens(tree, start, cursor)
    if "collapse" in kinds:
        lod_map = _with_some_coarsest(lod_map, protected_tail, generator)
    lod_map = _collapse_to(lod_map, target_length, protected_tail, generator, kinds)
    for _ in range(num_iterations - 1):
        lod_map = _expand_some(lod_map, generator, kinds)
        lod_map = _collapse_to(lod_map, target_length, protected_tail, generator, kinds)
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
    lod_map: LODMap,
    target_length: int,
    protected_tail: int,
    generator: np.random.Generator,
    kinds: Collection[str],
) -> LODMap:
    while (excess := lod_map.num_positions - target_length) > 0:
        collapses = _legal_of_kinds(lod_map, protected_tail, kinds, shows_more=False)
        if not len(collapses):
            break
        # Several at once: each is legal alone, and none may replace an entry that another one has.
        replaced: set[Node] = set()
        chosen: list[Action] = []
        for i in generator.permutation(len(collapses)):
            if excess <= 0:
                break
            collapse = collapses.action(i)
            entries = collapse.entries(lod_map.tree)
            if replaced.isdisjoint(entries):
                chosen.append(collapse)
                excess -= collapse.positions(lod_map.tree)
                replaced.update(entries)
        lod_map = apply_actions(lod_map, chosen)
    return lod_map


def _expand_some(lod_map: LODMap, generator: np.random.Generator, kinds: Collection[str]) -> LODMap:
    """Makes a random quarter of the expands and inserts, at least one."""
    expands = _legal_of_kinds(lod_map, 0, kinds, shows_more=True)
    if not len(expands):
        return lod_map
    chosen = generator.permutation(len(expands))[: max(1, len(expands) // 4)]
    return apply_actions(lod_map, [expands.action(i) for i in chosen])


def _legal_of_kinds(
    lod_map: LODMap, protected_tail: int, kinds: Collection[str], *, shows_more: bool
) -> ActionArrays:
    """Legal actions of `kinds` that show more, or of those that show less."""
    legal = legal_action_arrays(lod_map, protected_tail)
    between, absence = ("expand", "insert") if shows_more else ("collapse", "drop")
    is_wanted_A = np.where(legal.absent_level_A < 0, between in kinds, absence in kinds)
    return legal.at((is_wanted_A & (legal.is_expand_A == shows_more)).nonzero()[0])
