"""LOD maps with some spans of a window replaced by gists, for training and evaluation.

A window is a section of a document that is treated as a document of its own, starting at token 0.
"""

import numpy as np

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.errors import InputError
from mctrace.gists.config import Placement


def collapse_share(
    tree: TreeShape,
    num_tokens: int,
    share: float,
    placement: Placement,
    level: int,
    generator: np.random.Generator,
    *,
    protected_tail: int = 0,
) -> LODMap:
    """The map over [0, num_tokens) with `share` of its whole nodes of `level` as gists, at least one.

    `oldest` takes them from the start, `random` anywhere before the protected tail (tokens). Raises
    InputError when no whole node of that level lies before it.
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
        chosen = generator.permutation(num_allowed)[:num_chosen]
    return with_gists(tree, num_tokens, level, chosen)


def with_gists(tree: TreeShape, num_tokens: int, level: int, nodes: np.ndarray) -> LODMap:
    """The map over [0, num_tokens) with `nodes` (indices at `level`) as gists and all else as tokens."""
    levels = LODMap.of_tokens(tree, 0, num_tokens).levels.copy()
    per_node = tree.blocks_per_node(level)
    for node in nodes:
        levels[node * per_node : (node + 1) * per_node] = level
    return LODMap(tree, 0, num_tokens, levels)
