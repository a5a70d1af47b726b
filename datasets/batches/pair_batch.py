"""What the preference objective eats: one padded batch of working contexts with better ones to compare with.

Shapes: P moves, N entries (padded).
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mctrace.datasets.batches.batch import Batch


@dataclass(frozen=True)
class PairBatch:
    """Working contexts, and moves from them to other variants; every tensor is on one device."""

    contexts: Batch
    """one row per variant that a move begins at; nothing of it was measured"""
    row: Tensor
    """[P] int64, the row of `contexts` that each move begins at"""
    direction: Tensor
    """[P, N] 1 where the other variant shows more detail than the entry, -1 where less, 0 where as much"""
    from_adv_delta: Tensor
    """[P] loss of the variant the move begins at, less the baseline's, nats per token"""
    to_adv_delta: Tensor
    """[P] the same of the variant it leads to"""
    groups: tuple[str, ...]
    """P, the group of each move"""

    @property
    def change(self) -> Tensor:
        """[P] what each move does to the loss, nats per token; negative is better."""
        return self.to_adv_delta - self.from_adv_delta

    def to(self, device: torch.device | str) -> "PairBatch":
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, contexts=self.contexts.to(device), **moved)

    def __len__(self) -> int:
        return self.row.shape[0]
