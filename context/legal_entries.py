"""Legal directions of entries: which may expand, and which belong to a legal collapse.

Shapes: N entries.
"""

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import legal_action_arrays
from mctrace.context.lod_map import LODMap

BoolArray = npt.NDArray[np.bool_]


def legal_entries(lod_map: LODMap, protected_tail: int) -> tuple[BoolArray, BoolArray]:
    """Masks [N] of the entries that can expand, and of those that a legal collapse takes.

    The K entries of a collapse stand side by side, and no entry belongs to two collapses.
    """
    entries, actions = lod_map.entries, legal_action_arrays(lod_map, protected_tail)
    size = lod_map.tree.block_size
    first_A = np.searchsorted(entries.first_token_N, actions.index_A * size**actions.level_A)
    can_expand_N, can_collapse_N = np.zeros((2, len(entries)), dtype=np.bool_)
    can_expand_N[first_A[actions.is_expand_A]] = True
    can_collapse_N[first_A[~actions.is_expand_A, None] + np.arange(size)] = True
    return can_expand_N, can_collapse_N
