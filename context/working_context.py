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
    level_N = torch.from_numpy(entries.level_N)
    index_N = torch.from_numpy(entries.index_N)
    for level in np.unique(entries.level_N).tolist():
        if level >= len(tree_embeddings):
            raise LegalityError(f"an entry is at level {level}, the tree ends at {len(tree_embeddings) - 1}")
        at_level = torch.nonzero(level_N == level).squeeze(1)
        nodes = index_N[at_level]
        if int(nodes.max()) >= len(tree_embeddings[level]):
            raise LegalityError(
                f"node (level {level}, index {int(nodes.max())}) is beyond the document, "
                f"which has {len(tree_embeddings[level])} complete nodes at that level"
            )
        device = table.device
        gathered_ND[at_level.to(device)] = tree_embeddings[level][nodes.to(device)]
    return gathered_ND
