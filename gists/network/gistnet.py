"""GistNet: what turns K child embeddings into the one embedding that stands for them.

A gist lives in the base model's input-embedding space, so that a working context can mix it with tokens.
Level 1 is made from token embeddings, level 2 from level-1 gists, and so on. Everything that makes gists goes
through this Protocol: the mean below, a trained network, or a user's own.

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
    """Anything that can stand for K children with one embedding."""

    @property
    def content_hash(self) -> str:
        """What determines its gists: kept with every label made from them."""
        ...

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Raises ModelError when it cannot make gists of `block_size` children of that width."""
        ...

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        """Gists [M, d] at `level` from their children [M, K, d], in order."""
        ...


@dataclass(frozen=True)
class MeanGistNet:
    """The mean of the children: no weights, the baseline every trained GistNet must beat."""

    @property
    def content_hash(self) -> str:
        return "mean"

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Any block size and width will do."""

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        return children_MKd.float().mean(dim=1).to(children_MKd.dtype)


@torch.inference_mode()
def build_tree(gistnet: GistNet, token_embeddings_Td: Tensor, shape: TreeShape) -> Sequence[Tensor]:
    """Embeddings per level [num_nodes, d], tokens first: a gist for every complete node of the document.

    Raises ModelError when the GistNet returns another shape or anything that is not finite.
    """
    return differentiable_tree(gistnet, token_embeddings_Td, shape)


def differentiable_tree(gistnet: GistNet, token_embeddings_Td: Tensor, shape: TreeShape) -> Sequence[Tensor]:
    """The same, differentiable: gradients flow from the gists of every level into the GistNet's weights."""
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
