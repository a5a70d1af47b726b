"""Legal directions of scored nodes: which may be shown with more, and which a legal collapse or drop takes.

Shapes: N scored nodes (the entries, and absent blocks), A actions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import legal_action_arrays
from mctrace.context.lod_map import LODMap

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LegalEntries:
    """Masks over `LODMap.nodes`."""

    can_expand_N: BoolArray
    """nodes that can expand, and absent blocks that can be inserted"""
    can_collapse_N: BoolArray
    """nodes that a legal collapse takes; its K entries stand side by side, and no two collapses share one"""
    can_drop_N: BoolArray
    """nodes that a legal drop takes: a gist, or the K tokens of a block that can be collapsed too"""


def legal_entries(lod_map: LODMap, protected_tail: int) -> LegalEntries:
    """The legal directions of every scored node of a map."""
    nodes, actions, tree = lod_map.nodes, legal_action_arrays(lod_map, protected_tail), lod_map.tree
    first_A = np.searchsorted(nodes.first_token_N, actions.index_A * tree.block_size**actions.level_A)
    num_replaced_A = actions.num_replaced_A(tree)

    def taken_by(chosen_A: BoolArray) -> BoolArray:
        # +1 where an action's nodes begin, -1 behind them: the running sum is 1 among them.
        change_N = np.zeros(len(nodes) + 1, dtype=np.int64)
        np.add.at(change_N, first_A[chosen_A], 1)
        np.add.at(change_N, (first_A + num_replaced_A)[chosen_A], -1)
        return np.cumsum(change_N[:-1]) > 0

    is_drop_A = ~actions.is_expand_A & (actions.absent_level_A >= 0)
    return LegalEntries(
        can_expand_N=taken_by(actions.is_expand_A),
        can_collapse_N=taken_by(~actions.is_expand_A & ~is_drop_A),
        can_drop_N=taken_by(is_drop_A),
    )
