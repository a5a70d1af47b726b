"""Budget masses: positions that following every score would cost and free.

Shapes: B snapshots, N entries (padded).
"""

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch


def expand_cost(batch: Batch) -> Tensor:
    """Positions [B, N] that expanding each entry adds: K - 1 for a gist, 0 for a token and where padded.

    Inserting an absent block adds K tokens, or one gist.
    """
    cost_BN = (batch.entry_mask & (batch.levels >= 1)) * float(batch.block_size - 1)
    inserted = 1.0 if batch.absence == "gist" else float(batch.block_size)
    return torch.where(batch.levels > batch.max_level, inserted, cost_BN)


def collapse_refund(batch: Batch) -> Tensor:
    """Positions [B, N] that collapsing frees, shared among the K entries it takes: (K - 1)/K each.

    0 for `max_level` gists, which cannot collapse, and where padded. Where blocks may be absent, any entry
    can be dropped and frees its own position.
    """
    share = (batch.block_size - 1) / batch.block_size if batch.absence == "off" else 1.0
    return (batch.entry_mask & (batch.levels < batch.coarsest)) * share


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
