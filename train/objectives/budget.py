"""Budget masses: positions that following every score would cost and free.

Shapes: B snapshots, N entries (padded), R budgets asked for.
"""

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.focus import Focus, group_mean

ASKED_SHARES = (0.0, -0.25, -0.125, 0.125, 0.25)
"""changes of a context's length that a price is trained for, as shares of it; its own size first"""


def expand_cost(batch: Batch) -> Tensor:
    """Positions [B, N] that expanding each entry adds: K - 1 for a gist, 0 for a token and where padded."""
    return (batch.entry_mask & (batch.levels >= 1)) * float(batch.block_size - 1)


def collapse_refund(batch: Batch) -> Tensor:
    """Positions [B, N] that collapsing frees, shared among the K entries it takes: (K - 1)/K each.

    0 for `max_level` gists, which cannot collapse, and where padded.
    """
    share = (batch.block_size - 1) / batch.block_size
    return (batch.entry_mask & (batch.levels < batch.max_level)) * share


def budget_masses(scores_BN: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Expansion mass P and collapse mass N of each snapshot, two tensors [B] in score·positions.

    P = Σ_i cost_i·ReLU(s_i), N = Σ_i refund_i·ReLU(−s_i) over every entry, measured or not
    (docs/specification/losses.md#budget, with the costs of the real tree).
    """
    expansion_B = (expand_cost(batch) * torch.relu(scores_BN)).sum(dim=1)
    collapse_B = (collapse_refund(batch) * torch.relu(-scores_BN)).sum(dim=1)
    return expansion_B, collapse_B


def specification_masses(scores_BN: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """P and N of the specification's code (docs/specification/losses.md#budget), scalars of the whole batch.

    An expansion costs span·(8 − 1) at level 1 and span·(64 − 1) at level 2; a collapse of level 0 or 1 frees
    its span. The units do not match: tokens on one side, factors of another tree on the other.
    """
    factor_BN = torch.ones_like(scores_BN)
    factor_BN = torch.where(batch.levels == 1, 8.0, factor_BN)
    factor_BN = torch.where(batch.levels == 2, 64.0, factor_BN)
    cost_BN = batch.span_width * (factor_BN - 1) * (batch.entry_mask & (batch.levels >= 1))
    refund_BN = batch.span_width * (batch.entry_mask & (batch.levels <= 1))
    return (cost_BN * torch.relu(scores_BN)).sum(), (refund_BN * torch.relu(-scores_BN)).sum()


def asked_rooms(batch: Batch) -> Tensor:
    """Positions [B, R] by which each context may grow at the budgets of `ASKED_SHARES`."""
    shares_R = torch.tensor(ASKED_SHARES, device=batch.levels.device)
    return batch.entry_mask.sum(dim=1, keepdim=True) * shares_R


def focus_masses(focus: Focus, batch: Batch) -> tuple[Tensor, Tensor]:
    """Expansion mass P and collapse mass N [B, R] of signed scores u = v − price · positions.

    As in `budget_masses`, over the legal actions: P = Σ (K − 1)·ReLU(u) over expands, N = Σ (K − 1)·ReLU(−u)
    over collapses, a collapse scored by the mean of its group.
    """
    positions = batch.block_size - 1
    cost_BR1 = focus.price_BR[:, :, None] * positions
    expand_B1N, collapse_B1N = focus.expand_BN[:, None], group_mean(focus.collapse_BN, batch)[:, None]
    expansion_BRN = torch.relu(expand_B1N - cost_BR1) * batch.can_expand[:, None]
    collapse_BRN = torch.relu(cost_BR1 - collapse_B1N) * batch.can_collapse[:, None]
    refund = positions / batch.block_size
    return positions * expansion_BRN.sum(dim=2), refund * collapse_BRN.sum(dim=2)


def asked_mass(focus: Focus, batch: Batch, room_BR: Tensor, masses: tuple[Tensor, Tensor]) -> Tensor:
    """Mass [B, R] that the asked change of length is worth: `room_BR` positions at the mean |u| of those that
    following every score would move; without gradient."""
    positions = batch.block_size - 1
    with torch.no_grad():
        cost_BR1 = focus.price_BR[:, :, None] * positions
        wanted_BRN = (focus.expand_BN[:, None] > cost_BR1) & batch.can_expand[:, None]
        unwanted_BRN = (group_mean(focus.collapse_BN, batch)[:, None] < cost_BR1) & batch.can_collapse[
            :, None
        ]
        moved_BR = positions * (wanted_BRN.sum(dim=2) + unwanted_BRN.sum(dim=2) / batch.block_size)
        return room_BR * (masses[0] + masses[1]) / moved_BR.clamp(min=1)
