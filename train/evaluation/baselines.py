"""Scorers that learn nothing, which every checkpoint must beat before its numbers mean anything."""

import torch
from torch import Tensor

from mctrace.datasets.batches.batch import Batch


def recency_scores(batch: Batch) -> Tensor:
    """Scores [B, N] that fall with age: minus the distance to the cursor as a share of the context."""
    share_BN = batch.distance_to_cursor / batch.context_tokens[:, None].clamp(min=1)
    return torch.where(batch.entry_mask, -share_BN, torch.zeros_like(share_BN))


def attention_scores(batch: Batch) -> Tensor:
    """Scores [B, N] that rise with the base model's attention: its mass on each entry, 0 where not kept."""
    assert batch.entry_attention is not None, "attention mass was not read with the labels"
    return torch.where(batch.entry_mask, batch.entry_attention.nan_to_num(), 0.0)


def noise_scores(batch: Batch, generator: torch.Generator) -> Tensor:
    """Scores [B, N] that know nothing: standard normal noise."""
    noise_BN = torch.randn(batch.levels.shape, generator=generator)
    return torch.where(batch.entry_mask, noise_BN, torch.zeros_like(noise_BN))
