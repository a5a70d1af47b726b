"""Pairwise ranking loss over thousands of actions, in memory linear in their number.

Pairs are processed in blocks. The loss is a sum over pairs, so its gradient is accumulated in the forward
pass: no block is kept for the backward pass, and nothing is computed twice.

Shapes: B snapshots, A actions (padded), R rows and C columns of one block, P partners.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PAIRS_PER_BLOCK = 1 << 18
"""pairs per block on a CPU: a megabyte in float32, which stays in cache"""
CUDA_PAIRS_PER_BLOCK = 1 << 25
"""pairs per block on a GPU, where fewer and larger blocks are faster"""
EXACT_UP_TO = 1024
"""actions up to which `auto` compares all pairs: half a percent of a step's time at this size, an eighth at
8,192, where a sample of 64 partners gives the same loss within a few thousandths (`make bench-train`)"""


def ranking_loss(
    scores_BA: Tensor,
    utilities_BA: Tensor,
    present_BA: Tensor,
    margin: float,
    *,
    weights_BA: Tensor | None = None,
    num_partners: int | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Mean softplus(−(s_i − s_j)) over the pairs of a snapshot with y_i > y_j + margin, then over snapshots.

    Formula: docs/specification/losses.md#ranking. Pairs never cross snapshots, since the allocator never
    compares across them. Snapshots without a pair do not count; a batch without any pair gives 0.

    Args:
        margin: score units.
        weights_BA: a pair weighs the product of its actions' weights; 1 each unless given.
        num_partners: compare each action with that many others only, drawn so that all pairs are equally
            likely; all others unless given.
        count: divisor of the snapshots' sum; that of the whole batch when this is a part of it
            (`ranking_count`).
    """
    weights_BA = torch.ones_like(utilities_BA) if weights_BA is None else weights_BA
    weights_BA = (weights_BA * present_BA).float()
    scores_BA, utilities_BA = scores_BA.float(), utilities_BA.float()
    count = ranking_count(utilities_BA, weights_BA > 0, margin) if count is None else count
    num_actions = scores_BA.shape[1]
    if num_partners is not None and num_partners < (num_actions - 1) // 2:
        sums = _sampled_sums(scores_BA, utilities_BA, weights_BA, margin, num_partners)
    else:
        sums = _PairSums(*_AllPairs.apply(scores_BA, utilities_BA, weights_BA, margin))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    mean_B = sums.loss_B / torch.where(sums.weight_B > 0, sums.weight_B, torch.ones_like(sums.weight_B))
    return mean_B.sum() / count.clamp(min=1)


def ranking_count(utilities_BA: Tensor, present_BA: Tensor, margin: float) -> Tensor:
    """Number of snapshots that have a pair to rank, a scalar."""
    if not utilities_BA.shape[1]:
        return utilities_BA.new_zeros(())
    utilities_BA = utilities_BA.float()
    best_B = torch.where(present_BA, utilities_BA, -torch.inf).amax(dim=1)
    worst_B = torch.where(present_BA, utilities_BA, torch.inf).amin(dim=1)
    return (best_B > worst_B + margin).sum().float()


class _PairSums(NamedTuple):
    loss_B: Tensor
    """loss summed over the pairs of each snapshot"""
    weight_B: Tensor
    """weight summed over those pairs"""


class _AllPairs(torch.autograd.Function):
    """Σ w_i·w_j·softplus(s_j − s_i) and Σ w_i·w_j over the pairs with y_i > y_j + margin, per snapshot."""

    @staticmethod
    def forward(
        ctx: Any, scores_BA: Tensor, utilities_BA: Tensor, weights_BA: Tensor, margin: float
    ) -> tuple[Tensor, Tensor]:
        # With targets sorted in descending order, all partners with a lower target stand to the right of a
        # row: half the work. Absent actions have weight 0 and come last.
        target_BA, order_BA = torch.where(weights_BA > 0, utilities_BA, -torch.inf).sort(
            dim=1, descending=True
        )
        score_BA, weight_BA = scores_BA.gather(1, order_BA), weights_BA.gather(1, order_BA)
        num_rows, num_actions = scores_BA.shape
        loss_B, total_B = scores_BA.new_zeros(num_rows), scores_BA.new_zeros(num_rows)
        slope_BA = torch.zeros_like(scores_BA)
        rows_per_block = _rows_per_block(scores_BA)
        for first in range(0, num_actions, rows_per_block):
            rows, columns = slice(first, first + rows_per_block), slice(first, None)
            is_pair_BRC = target_BA[:, rows, None] > target_BA[:, None, columns] + margin
            pair_BRC = is_pair_BRC * weight_BA[:, rows, None] * weight_BA[:, None, columns]
            gap_BRC = score_BA[:, None, columns] - score_BA[:, rows, None]
            loss_B += torch.einsum("brc,brc->b", functional.softplus(gap_BRC), pair_BRC)
            total_B += pair_BRC.sum(dim=(1, 2))
            slope_BRC = gap_BRC.sigmoid_().mul_(pair_BRC)
            slope_BA[:, rows] -= slope_BRC.sum(dim=2)
            slope_BA[:, columns] += slope_BRC.sum(dim=1)
        ctx.save_for_backward(torch.zeros_like(slope_BA).scatter(1, order_BA, slope_BA))
        ctx.mark_non_differentiable(total_B)
        return loss_B, total_B

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        (slope_BA,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * slope_BA, None, None, None


def _rows_per_block(scores_BA: Tensor) -> int:
    budget = CUDA_PAIRS_PER_BLOCK if scores_BA.is_cuda else PAIRS_PER_BLOCK
    return max(1, budget // max(1, scores_BA.numel()))


def _sampled_sums(
    scores_BA: Tensor, utilities_BA: Tensor, weights_BA: Tensor, margin: float, num_partners: int
) -> _PairSums:
    """The same sums over a random subset of the pairs, drawn by torch's global generator.

    Actions are placed on a circle in random order; partners are those at `num_partners` random distances.
    Each pair is drawn at most once, and all pairs are equally likely.
    """
    num_actions, device = scores_BA.shape[1], scores_BA.device
    order_A = torch.randperm(num_actions).to(device)
    distance_P = 1 + torch.randperm((num_actions - 1) // 2)[:num_partners].to(device)
    partner_AP = (torch.arange(num_actions, device=device)[:, None] + distance_P) % num_actions
    score_BA, target_BA, weight_BA = (part[:, order_A] for part in (scores_BA, utilities_BA, weights_BA))
    gap_BAP = score_BA.unsqueeze(2) - score_BA[:, partner_AP]
    ahead_BAP = target_BA.unsqueeze(2) - target_BA[:, partner_AP]
    pair_BAP = (ahead_BAP.abs() > margin) * weight_BA.unsqueeze(2) * weight_BA[:, partner_AP]
    loss_BAP = functional.softplus(-ahead_BAP.sign() * gap_BAP)
    return _PairSums((loss_BAP * pair_BAP).sum(dim=(1, 2)), pair_BAP.sum(dim=(1, 2)))
