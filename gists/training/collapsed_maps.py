"""Which spans of a window stand as gists: the working contexts that training and evaluation look at.

A window is a stretch of a document seen as one of its own, from token 0. A pattern is its LOD map.
"""

from typing import Literal

import numpy as np

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.errors import InputError

Placement = Literal["oldest", "random"]


def collapse_share(
    tree: TreeShape,
    num_tokens: int,
    share: float,
    placement: Placement,
    level: int,
    chance: np.random.Generator,
    *,
    protected_tail: int = 0,
) -> LODMap:
    """The map over [0, num_tokens) with `share` of its whole nodes of `level` as gists, at least one.

    `oldest` takes them from the start, `random` anywhere before the protected tail (tokens). Raises
    InputError when no whole node of that level fits.
    """
    num_nodes = tree.num_complete_nodes(level, num_tokens)
    num_allowed = tree.num_complete_nodes(level, max(0, num_tokens - protected_tail))
    if not num_allowed:
        raise InputError(
            f"{num_tokens} tokens hold no whole node of level {level} ({tree.span_width(level)} tokens) "
            f"before the protected tail of {protected_tail}"
        )
    num_chosen = min(max(1, round(share * num_nodes)), num_allowed)
    chosen = np.arange(num_chosen)
    if placement == "random":
        chosen = chance.permutation(num_allowed)[:num_chosen]
    return with_gists(tree, num_tokens, level, chosen)


def with_gists(tree: TreeShape, num_tokens: int, level: int, nodes: np.ndarray) -> LODMap:
    """The map over [0, num_tokens) in which just `nodes` (indices at `level`) are gists."""
    levels = LODMap.of_tokens(tree, 0, num_tokens).levels.copy()
    per_node = tree.blocks_per_node(level)
    for node in nodes:
        levels[node * per_node : (node + 1) * per_node] = level
    return LODMap(tree, 0, num_tokens, levels)
