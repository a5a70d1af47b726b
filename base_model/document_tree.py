"""Document as the base model sees it: token ids and the embeddings of every node."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DocumentTree:
    """A document as the model sees it: token ids [T] and, per level, its nodes' embeddings [num_nodes, d]."""

    tokens_T: Tensor
    embeddings: Sequence[Tensor]
