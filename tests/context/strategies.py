"""Random trees and legal LOD maps, and docs/specification/scoring.md#legality transcribed slowly.

Nothing here uses the arithmetic of `mctrace.context` beyond its constructors: a map's entries are what one
finds by asking token after token which node stands for it.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from mctrace.context.actions import Action
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape

light = settings(max_examples=40, deadline=None, derandomize=True)
"""Settings of all property tests here: deterministic examples, no deadline."""


def trees(*, block_sizes: tuple[int, ...] = (2, 3, 4, 8, 32)) -> st.SearchStrategy[TreeShape]:
    return st.builds(TreeShape, st.sampled_from(block_sizes), st.integers(1, 3))


@st.composite
def legal_maps(draw: st.DrawFn, tree_shapes: st.SearchStrategy[TreeShape] | None = None) -> LODMap:
    """Any legal map of up to about two and a half level-2 nodes: any start block, any cursor, any tiling."""
    tree = draw(tree_shapes if tree_shapes is not None else trees())
    size = tree.block_size
    first_block = draw(st.integers(0, 2 * size))
    num_whole = draw(st.integers(0, max(8, 2 * size + size // 2)))
    cut = draw(st.integers(0 if num_whole else 1, size - 1))
    levels: list[int] = []
    while len(levels) < num_whole:
        block = first_block + len(levels)
        allowed = [0, 1] + [
            level
            for level in range(2, tree.max_level + 1)
            if block % size ** (level - 1) == 0 and len(levels) + size ** (level - 1) <= num_whole
        ]
        level = draw(st.sampled_from(allowed))
        levels += [level] * size ** max(0, level - 1)
    if cut:
        levels.append(0)
    start = first_block * size
    return LODMap(tree, start, start + num_whole * size + cut, np.array(levels, dtype=np.uint8))


def shown_nodes(lod_map: LODMap) -> list[Node]:
    """Nodes of a map, oldest first: find the node of the next token, continue at its end."""
    size = lod_map.tree.block_size
    nodes: list[Node] = []
    token = lod_map.start
    while token < lod_map.cursor:
        level = int(lod_map.levels[(token - lod_map.start) // size])
        nodes.append(Node(level, token // size**level))
        token = (nodes[-1].index + 1) * size**level
    return nodes


def some_of(actions: list[Action], count: int = 8) -> list[Action]:
    """A few evenly spaced items, the first and the last included."""
    return actions[:: max(1, len(actions) // count)] + actions[-1:]


def possible_actions(lod_map: LODMap, levels: range) -> list[Action]:
    """All actions, legal or not, on nodes of `levels` that overlap or border the map."""
    size = lod_map.tree.block_size
    return [
        Action(kind, Node(level, index))
        for level in levels
        for index in range(
            max(0, lod_map.start // size**level - 1),
            lod_map.cursor // size**level + 2,
        )
        for kind in ("expand", "collapse")
    ]


def is_legal(action: Action, lod_map: LODMap, shown: set[Node], protected_tail: int) -> bool:
    """docs/specification/scoring.md#legality, transcribed literally; `shown` are the map's nodes."""
    tree = lod_map.tree
    level, index = action.node.level, action.node.index
    if action.kind == "expand":
        return level > 0 and action.node in shown
    siblings = {Node(level - 1, index * tree.block_size + i) for i in range(tree.block_size)}
    is_complete = (index + 1) * tree.block_size**level <= lod_map.cursor
    is_old_enough = (index + 1) * tree.block_size**level <= lod_map.cursor - protected_tail
    return 1 <= level <= tree.max_level and siblings <= shown and is_complete and is_old_enough
