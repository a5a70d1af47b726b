"""GistNet protocol: computes one gist embedding from K child embeddings.

Gists are in the base model's input-embedding space, so a working context can mix them with tokens. Level 1 is
computed from token embeddings, level 2 from level-1 gists, and so on. All gists come from this protocol: the
mean below, a trained network, or a user's own.

Shapes: M nodes, K children per node, d embedding width of the base model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError


@runtime_checkable
class GistNet(Protocol):
    """Computes one embedding from K children."""

    @property
    def content_hash(self) -> str:
        """Hash of everything that determines the gists; stored with every label measured with them."""
        ...

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Raises ModelError when gists of `block_size` children of that width cannot be computed."""
        ...

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        """Gists [M, d] at `level` from children [M, K, d], in document order."""
        ...


@dataclass(frozen=True)
class MeanGistNet:
    """Mean of the children: no weights; the baseline that every trained GistNet must beat."""

    @property
    def content_hash(self) -> str:
        return "mean"

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Accepts any block size and width."""

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        return children_MKd.float().mean(dim=1).to(children_MKd.dtype)


@torch.inference_mode()
def build_tree(gistnet: GistNet, token_embeddings_Td: Tensor, shape: TreeShape) -> Sequence[Tensor]:
    """Embeddings [num_nodes, d] of each level, tokens first; one gist per complete node of the document.

    Raises ModelError when the GistNet returns another shape or anything that is not finite.
    """
    return differentiable_tree(gistnet, token_embeddings_Td, shape)


def differentiable_tree(gistnet: GistNet, token_embeddings_Td: Tensor, shape: TreeShape) -> Sequence[Tensor]:
    """`build_tree` with gradients from the gists of every level to the GistNet's weights."""
    levels = [token_embeddings_Td]
    width = token_embeddings_Td.shape[1]
    for level in range(1, shape.max_level + 1):
        num_nodes = len(levels[-1]) // shape.block_size
        if num_nodes == 0:
            levels.append(token_embeddings_Td.new_empty(0, width))
            continue
        children_MKd = levels[-1][: num_nodes * shape.block_size].view(num_nodes, shape.block_size, width)
        gists_Md = gistnet.gists(children_MKd, level)
        if gists_Md.shape != (num_nodes, width) or not torch.isfinite(gists_Md).all():
            raise ModelError(
                f"the GistNet gave {tuple(gists_Md.shape)} at level {level}, "
                f"expected finite ({num_nodes}, {width})"
            )
        levels.append(gists_Md.to(token_embeddings_Td.dtype))
    return levels
