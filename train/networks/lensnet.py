"""Base class of LensNets, and the input features they share: one signed score per entry.

Shapes: B snapshots, N entries (padded), E embedding width, F features.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.errors import InputError


def num_features(absence: Absence) -> int:
    """Number of features F of an entry: level, span, distance, and a flag where blocks may be absent."""
    return 3 if absence == "off" else 4


INITIAL_SCORE_STD = 0.02
"""approximate standard deviation of an untrained network's scores; that of targets is about 1"""


class LensNet(nn.Module, ABC):
    """Maps a `Batch` to scores [B, N]: positive asks for more detail, negative for less, zero where padded.

    Subclasses implement `score_entries`. It reads the inputs of a batch only, never labels, and the scores of
    real entries must not depend on the padding beside them.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    @abstractmethod
    def score_entries(self, batch: Batch) -> Tensor:
        """Scores [B, N] in score units; anything finite where padded."""

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B, N] in score units, zero where padded.

        Raises InputError when the width of the batch's embeddings differs from `embedding_dim`.
        """
        width = batch.context_embeddings.shape[-1]
        if width != self.embedding_dim:
            raise InputError(
                f"this LensNet reads embeddings of width {self.embedding_dim}, the batch has {width}: "
                "its data come from another base model; train a LensNet for that one"
            )
        scores_BN = self.score_entries(batch)
        return torch.where(batch.entry_mask, scores_BN, torch.zeros_like(scores_BN))


def entry_features(batch: Batch) -> Tensor:
    """Level, span width and distance to the cursor of each entry, each in [0, 1]: [B, N, F].

    Normalised by the coarsest level, by the widest node's span, and by the context's tokens
    (docs/specification/networks.md#features). Where blocks may be absent, a fourth one is 1 for those that
    are.
    """
    level_BN = batch.levels / batch.coarsest
    span_BN = batch.span_width / batch.block_size**batch.max_level
    distance_BN = batch.distance_to_cursor / batch.context_tokens.clamp(min=1).unsqueeze(1)
    features = [level_BN, span_BN, distance_BN]
    if batch.absence != "off":
        features.append((batch.levels > batch.max_level).to(level_BN.dtype))
    return torch.stack(features, dim=-1)


def normalised(embeddings_BNE: Tensor) -> Tensor:
    """Embeddings [B, N, E] normalised to mean 0 and variance 1 per entry, in float32; zeros stay zero.

    Base models scale embeddings anywhere from 0.01 to 1, so eps is far below the usual 1e-5, which would
    shrink small ones.
    """
    embeddings_BNE = embeddings_BNE.float()
    return functional.layer_norm(embeddings_BNE, embeddings_BNE.shape[-1:], eps=1e-10)
