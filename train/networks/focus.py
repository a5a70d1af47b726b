"""Values of detail and a price: the output of a network with a price head, and the signed scores it implies.

The signed score of an action is u = v − price · positions: worth expanding above 0, not worth its positions
below (docs/specification/inference.md#price). An entry has a value for each direction, since what its own
detail is worth and what it is worth beside its siblings differ.

Shapes: B snapshots, N entries (padded), R budgets asked for.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, scores_of_actions


@dataclass(frozen=True)
class Focus:
    """Values of detail by direction and prices, in score units."""

    expand_BN: Tensor
    """value of expanding the entry"""
    collapse_BN: Tensor
    """value of the detail that a collapse of the entry's group would lose"""
    price_BR: Tensor
    """price of one position, at each budget asked for; 0 or above"""

    def float(self) -> "Focus":
        return Focus(self.expand_BN.float(), self.collapse_BN.float(), self.price_BR.float())

    def cpu(self) -> "Focus":
        return Focus(self.expand_BN.cpu(), self.collapse_BN.cpu(), self.price_BR.cpu())

    def detach(self) -> "Focus":
        return Focus(self.expand_BN.detach(), self.collapse_BN.detach(), self.price_BR.detach())

    def value_detached(self) -> "Focus":
        """The same, with gradients through the price only."""
        return replace(self, expand_BN=self.expand_BN.detach(), collapse_BN=self.collapse_BN.detach())

    def price_detached(self) -> "Focus":
        """The same, with gradients through the values only."""
        return replace(self, price_BR=self.price_BR.detach())


Scores = Tensor | Focus
"""what a network gives: scores [B, N], or values with a price"""


def action_scores(focus: Focus, batch: Batch, budget: int = 0) -> tuple[Tensor, Tensor]:
    """Signed scores [B, N] of each entry's expand, and of the collapse that takes it, legal or not.

    A collapse's is the mean over its K entries less the price of the K − 1 positions, for all of them alike,
    as the allocator aggregates; entries that no legal collapse takes keep their own. `budget` chooses among
    the prices.
    """
    cost_B1 = focus.price_BR[:, budget, None] * (batch.block_size - 1)
    return focus.expand_BN - cost_B1, group_mean(focus.collapse_BN, batch) - cost_B1


def signed_scores(focus: Focus, batch: Batch) -> Tensor:
    """max(0, u_expand) + min(0, u_collapse) of each entry [B, N], 0 in illegal directions.

    The single score of docs/specification/targets.md#one-target-per-entry, with the hard mask of
    docs/specification/inference.md#masking.
    """
    expand_BN, collapse_BN = action_scores(focus, batch)
    return expand_BN.relu() * batch.can_expand - (-collapse_BN).relu() * batch.can_collapse


def unmasked_scores(focus: Focus, batch: Batch) -> Tensor:
    """Mean of the signed scores of each entry's legal directions [B, N], 0 without any.

    Of either sign in any direction and differentiable everywhere: what pairs of contexts teach, whose terms
    ask for the sign of one score per entry.
    """
    expand_BN, collapse_BN = action_scores(focus, batch)
    num_legal_BN = (batch.can_expand.int() + batch.can_collapse.int()).clamp(min=1)
    return (expand_BN * batch.can_expand + collapse_BN * batch.can_collapse) / num_legal_BN


def action_values(scores: Scores, batch: Batch) -> Tensor:
    """Score of each measured action [B, A], of a `Focus` its value."""
    if isinstance(scores, Focus):
        return scores_of_actions(scores.expand_BN, batch, scores.collapse_BN)
    return scores_of_actions(scores, batch)


def merged_values(focus: Focus, batch: Batch) -> Tensor:
    """One value of detail per entry [B, N], to compare with its single target: the mean over its measured
    directions, of an entry without any over both."""
    expand_BN, collapse_BN = batch.expand_action >= 0, batch.collapse_action >= 0
    only_expand_BN, only_collapse_BN = expand_BN & ~collapse_BN, collapse_BN & ~expand_BN
    mean_BN = 0.5 * (focus.expand_BN + focus.collapse_BN)
    merged_BN = torch.where(only_expand_BN, focus.expand_BN, mean_BN)
    return torch.where(only_collapse_BN, focus.collapse_BN, merged_BN) * batch.entry_mask


def group_mean(values_BN: Tensor, batch: Batch) -> Tensor:
    """Mean over the K entries of the legal collapse that takes each entry [B, N]; others keep their value.

    By gathering, not scattering: static shapes for `torch.export`, one order of summation on every device.
    """
    position_BN = torch.arange(values_BN.shape[1], device=values_BN.device)
    place_BN = (batch.can_collapse.cumsum(dim=1) - 1) % batch.block_size
    first_BN = (position_BN - place_BN).clamp(min=0)
    # Sums of K neighbours, from each entry on, as differences of running sums.
    running_BN = torch.nn.functional.pad(values_BN.double().cumsum(dim=1), (1, 0))
    last_BN = (first_BN + batch.block_size).clamp(max=values_BN.shape[1])
    sum_BN = running_BN.gather(1, last_BN) - running_BN.gather(1, first_BN)
    return torch.where(batch.can_collapse, (sum_BN / batch.block_size).to(values_BN.dtype), values_BN)
