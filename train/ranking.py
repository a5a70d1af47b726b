"""The pairwise ranking term over thousands of actions, in memory that grows linearly with their number.

Shapes: B snapshots, A actions (padded), R rows of one block, C columns of one block.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROWS_PER_BLOCK = 128
"""higher-placed actions compared with all lower ones at a time; a block holds B·ROWS_PER_BLOCK·A numbers"""


def ranking_loss(scores_BA: Tensor, utilities_BA: Tensor, present_BA: Tensor, margin: float) -> Tensor:
    """Mean softplus(−(s_i − s_j)) over the pairs of a snapshot with y_i > y_j + margin, then over snapshots.

    Formula: lensnet-training.md, "Ranking Loss". Pairs never cross snapshots, since the allocator never
    compares them; snapshots without a pair have no vote, and a batch without any gives 0. `margin` is in
    score units. Pairs are recomputed in the backward pass instead of being kept.
    """
    # With the best target first, a row's lower-placed partners all stand to its right: half the work.
    ordered = torch.where(present_BA, utilities_BA.float(), -torch.inf).sort(dim=1, descending=True)
    scores_BA = scores_BA.float().gather(1, ordered.indices)
    present_BA = present_BA.gather(1, ordered.indices)
    loss_B = scores_BA.new_zeros(scores_BA.shape[0])
    pairs_B = scores_BA.new_zeros(scores_BA.shape[0])
    for first in range(0, scores_BA.shape[1], ROWS_PER_BLOCK):
        rows = slice(first, first + ROWS_PER_BLOCK)
        block_loss_B, block_pairs_B = checkpoint(
            _block,
            scores_BA[:, rows],
            scores_BA[:, first:],
            ordered.values[:, rows],
            ordered.values[:, first:],
            present_BA[:, first:],
            margin,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        loss_B = loss_B + block_loss_B
        pairs_B = pairs_B + block_pairs_B
    mean_B = loss_B / pairs_B.clamp(min=1)
    return mean_B.sum() / (pairs_B > 0).sum().clamp(min=1)


def _block(
    score_BR: Tensor,
    score_BC: Tensor,
    target_BR: Tensor,
    target_BC: Tensor,
    present_BC: Tensor,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """Summed loss [B] and number of pairs [B] of some rows against the columns to their right."""
    ordered_BRC = target_BR.unsqueeze(2) > target_BC.unsqueeze(1) + margin
    pair_BRC = ordered_BRC & present_BC.unsqueeze(1)
    violation_BRC = functional.softplus(score_BC.unsqueeze(1) - score_BR.unsqueeze(2))
    return (violation_BRC * pair_BRC).sum(dim=(1, 2)), pair_BRC.sum(dim=(1, 2))
