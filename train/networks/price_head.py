"""Price head: the price of a position in one working context, at the budgets asked for.

Shapes: B snapshots, N entries (padded), E embedding width, D width of the entries' hidden states, S
statistics, R budgets asked for.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.focus import group_mean

_HIDDEN = 64
_INITIAL_PRICE = 0.1
"""price of an action's K − 1 positions before training, score units"""
_NUM_STATISTICS = 8
"""S: those of `_statistics` and the budget"""


class PriceHead(nn.Module):
    """Price ≥ 0 of a position [B, R] from pooled entries, tail gists, length and the budget asked for.

    Entries are pooled over those that can expand and those that can be collapsed, with the mean and deviation
    of their predicted values: the price lies where the values of the two cross. Neither hidden states nor
    values get a gradient from here, so that a price never bends the values it is subtracted from.
    """

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(2 * width + embedding_dim, _HIDDEN)
        self.statistics = nn.Linear(_NUM_STATISTICS, _HIDDEN)
        self.direct = nn.Linear(_NUM_STATISTICS, 1)
        self.price = nn.Linear(_HIDDEN, 1)
        for layer in (self.direct, self.price):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.price.bias, math.log(math.expm1(_INITIAL_PRICE)))

    def forward(
        self, hidden_BND: Tensor, values: tuple[Tensor, Tensor], batch: Batch, room_BR: Tensor
    ) -> Tensor:
        """Prices [B, R] in score units per position.

        `values` are those of expanding and of collapsing each entry [B, N]; `room_BR` the positions by which
        the context may grow (negative: must shrink) at each budget.
        """
        hidden_BND = hidden_BND.detach()
        expand_BN, collapse_BN = (found_BN.detach().float() for found_BN in values)
        legal = (batch.can_expand, batch.can_collapse)
        pooled_B2D = [_pooled(hidden_BND, mask_BN) for mask_BN in legal]
        tail_BE = _pooled(_normalised(batch.tail_gists), batch.tail_mask)
        pooled_BH = self.pooled(torch.cat([*pooled_B2D, tail_BE], dim=-1))
        statistics_BS = _statistics((expand_BN, group_mean(collapse_BN, batch)), batch)
        length_B1 = batch.entry_mask.sum(dim=1, keepdim=True).clamp(min=1)
        statistics_BRS = torch.cat(
            [
                statistics_BS[:, None].expand(-1, room_BR.shape[1], -1),
                (room_BR / length_B1)[:, :, None],
            ],
            dim=-1,
        )
        hidden_BRH = functional.gelu(pooled_BH[:, None] + self.statistics(statistics_BRS))
        raw_BR = (self.price(hidden_BRH) + self.direct(statistics_BRS)).squeeze(-1)
        price_BR: Tensor = functional.softplus(raw_BR.float()) / (batch.block_size - 1)
        return price_BR


def _normalised(gists_BGE: Tensor) -> Tensor:
    return functional.layer_norm(gists_BGE.float(), gists_BGE.shape[-1:], eps=1e-10)


def _pooled(states_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean [B, D] over the entries of a mask; 0 where it has none."""
    weight_B1N = mask_BN[:, None].to(states_BND.dtype)
    count_B1 = weight_B1N.sum(dim=2).clamp(min=1)
    return (weight_B1N @ states_BND).squeeze(1) / count_B1


def _statistics(values: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Length, and by direction the share, mean and deviation of the legal values: [B, 7]."""
    length_B = batch.entry_mask.sum(dim=1).clamp(min=1).float()
    found = [torch.log2(length_B) / 16]
    for values_BN, mask_BN in zip(values, (batch.can_expand, batch.can_collapse), strict=True):
        count_B = mask_BN.sum(dim=1).clamp(min=1).float()
        mean_B = (values_BN * mask_BN).sum(dim=1) / count_B
        square_B = ((values_BN - mean_B[:, None]).square() * mask_BN).sum(dim=1) / count_B
        found += [mask_BN.sum(dim=1) / length_B, mean_B, (square_B + 1e-12).sqrt()]
    return torch.stack(found, dim=-1)
