"""Embeddings of a working context: gathered from a document's tree, one per entry."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mctrace.context.lod_map import Entries
from mctrace.errors import LegalityError


def gather_embeddings(entries: Entries, tree_embeddings: Sequence[Tensor]) -> Tensor:
    """Embeddings [N, d] of `entries`, in order.

    `tree_embeddings[level]` is [num_nodes, d] of one document: token embeddings at level 0, gists above.
    Raises LegalityError when an entry's node is not in the tree.
    """
    table = tree_embeddings[0]
    gathered_ND = table.new_empty(len(entries), table.shape[1])
    for level in np.unique(entries.level_N).tolist():
        if level >= len(tree_embeddings):
            raise LegalityError(f"an entry is at level {level}, the tree ends at {len(tree_embeddings) - 1}")
        at_level = np.flatnonzero(entries.level_N == level)
        nodes = entries.index_N[at_level]
        if nodes.max() >= len(tree_embeddings[level]):
            raise LegalityError(
                f"node (level {level}, index {nodes.max()}) is beyond the document, "
                f"which has {len(tree_embeddings[level])} complete nodes at that level"
            )
        # Copied without waiting for what the device still has to do.
        place_M, node_M = (
            torch.from_numpy(index_M).to(table.device, non_blocking=True) for index_M in (at_level, nodes)
        )
        gathered_ND.index_copy_(0, place_M, tree_embeddings[level].index_select(0, node_M))
    return gathered_ND
