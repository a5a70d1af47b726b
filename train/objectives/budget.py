"""Budget masses: positions that following every score would cost and free.

Shapes: B snapshots, N entries (padded), R budgets asked for.
"""

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.focus import Direction, Focus, directions

ASKED_SHARES = (0.0, -0.25, -0.125, 0.125, 0.25)
"""changes of a context's length that a price is trained for, as shares of it; its own size first"""


def expand_cost(batch: Batch) -> Tensor:
    """Positions [B, N] that expanding each entry adds: K - 1 for a gist, 0 for a token and where padded.

    Inserting an absent block adds K tokens, or one gist. A gist of several positions adds what its children
    take beyond them.
    """
    cost_BN = (batch.entry_mask & (batch.levels >= 1)) * batch.expand_positions.float()
    return torch.where(batch.levels > batch.max_level, float(batch.insert_positions), cost_BN)


def collapse_refund(batch: Batch) -> Tensor:
    """Positions [B, N] that collapsing frees, shared among the K entries it takes: (K - 1)/K each.

    0 for `max_level` gists, which cannot collapse, and where padded. Where blocks may be absent, any entry
    can be dropped and frees its own positions.
    """
    shared_BN = batch.collapse_positions / batch.block_size
    freed_BN = shared_BN if batch.absence == "off" else batch.entry_positions.float()
    return (batch.entry_mask & (batch.levels < batch.coarsest)) * freed_BN


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
    return batch.num_positions[:, None] * shares_R


def focus_masses(focus: Focus, batch: Batch) -> tuple[Tensor, Tensor]:
    """Expansion mass P and collapse mass N [B, R] of signed scores u = v − price · positions.

    As in `budget_masses`, over the legal actions: P = Σ positions·ReLU(u) over expands and inserts, N =
    Σ positions·ReLU(−u) over collapses and drops, each scored by the mean of the entries that it takes.
    Nested actions count as independent, as for the shadow price.
    """
    expansion_BR, *freed = (
        _mass(direction, torch.relu(direction.sign * direction.scores(focus.price_BR)))
        for direction in directions(focus.expand_BN, focus.collapse_BN, batch)
    )
    return expansion_BR, torch.stack(freed).sum(dim=0)


def asked_mass(focus: Focus, batch: Batch, room_BR: Tensor, masses: tuple[Tensor, Tensor]) -> Tensor:
    """Mass [B, R] that the asked change of length is worth: `room_BR` positions at the mean |u| of those that
    following every score would move; without gradient."""
    with torch.no_grad():
        moved = [
            _mass(direction, direction.sign * direction.scores(focus.price_BR) > 0)
            for direction in directions(focus.expand_BN, focus.collapse_BN, batch)
        ]
        moved_BR = torch.stack(moved).sum(dim=0)
        return room_BR * (masses[0] + masses[1]) / moved_BR.clamp(min=1)


def _mass(direction: Direction, weight_BRN: Tensor) -> Tensor:
    """Sum [B, R] of the legal entries' shares of the positions, weighted."""
    return ((direction.share_BN * direction.legal_BN)[:, None] * weight_BRN).sum(dim=2)
