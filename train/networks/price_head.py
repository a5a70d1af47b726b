"""Price head: the price of a position in one working context, at the budgets asked for.

Shapes: B snapshots, N entries (padded), E embedding width, D width of the entries' hidden states, S
statistics, H hidden units, R budgets asked for.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.focus import Direction, directions

_HIDDEN = 64
_INITIAL_PRICE = 0.1
"""price of an action's K − 1 positions before training, score units"""


class PriceHead(nn.Module):
    """Price ≥ 0 of a position [B, R] from pooled entries, tail gists, length and the budget asked for.

    Entries are pooled over those that can expand, those that can be collapsed and those that can be dropped,
    with the mean and deviation of their predicted values per position: the price lies where those of showing
    more and of showing less cross. Neither hidden states nor values get a gradient from here, so that a price
    never bends the values it is subtracted from.
    """

    def __init__(self, width: int, embedding_dim: int, absence: Absence) -> None:
        super().__init__()
        num_directions = 2 if absence == "off" else 3
        num_statistics = 3 * num_directions + 2  # those of `_statistics`, and the budget
        self.pooled = nn.Linear(num_directions * width + embedding_dim, _HIDDEN)
        self.statistics = nn.Linear(num_statistics, _HIDDEN)
        self.direct = nn.Linear(num_statistics, 1)
        self.price = nn.Linear(_HIDDEN, 1)
        for layer in (self.direct, self.price):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.price.bias, math.log(math.expm1(_INITIAL_PRICE)))

    def forward(
        self, hidden_BND: Tensor, values: tuple[Tensor, Tensor], batch: Batch, room_BR: Tensor
    ) -> Tensor:
        """Prices [B, R] in score units per position.

        `values` are those of showing more and less of each entry [B, N]; `room_BR` the positions by which
        the context may grow (negative: must shrink) at each budget.
        """
        hidden_BND = hidden_BND.detach()
        expand_BN, collapse_BN = (found_BN.detach().float() for found_BN in values)
        found = directions(expand_BN, collapse_BN, batch)
        by_direction = [_pooled(hidden_BND, direction.legal_BN) for direction in found]
        tail_BE = _pooled(_normalised(batch.tail_gists), batch.tail_mask)
        pooled_BH = self.pooled(torch.cat([*by_direction, tail_BE], dim=-1))
        statistics_BS = _statistics(found, batch)
        length_B1 = batch.num_positions[:, None].clamp(min=1)
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


def _statistics(found: list[Direction], batch: Batch) -> Tensor:
    """Length, and by direction the share of entries, mean and deviation of the legal values, per position in
    units of K − 1 positions: [B, 1 + 3 · directions]."""
    num_entries_B = batch.entry_mask.sum(dim=1).clamp(min=1).float()
    statistics = [torch.log2(batch.num_positions.clamp(min=1).float()) / 16]
    for direction in found:
        values_BN = direction.value_BN * ((batch.block_size - 1) / direction.positions_BN)
        mask_BN = direction.legal_BN
        count_B = mask_BN.sum(dim=1).clamp(min=1).float()
        mean_B = (values_BN * mask_BN).sum(dim=1) / count_B
        square_B = ((values_BN - mean_B[:, None]).square() * mask_BN).sum(dim=1) / count_B
        statistics += [mask_BN.sum(dim=1) / num_entries_B, mean_B, (square_B + 1e-12).sqrt()]
    return torch.stack(statistics, dim=-1)
