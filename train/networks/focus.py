"""Values of detail and a price: the output of a network with a price head, and the signed scores it implies.

The signed score of an action is u = v − price · positions: worth expanding above 0, not worth its positions
below (docs/specification/inference.md#price). An entry has a value for showing more and one for showing less,
since what its own detail is worth and what it is worth beside its siblings differ. Collapse and drop share
the latter: the price of their positions tells them apart (docs/absence.md).

Shapes: B snapshots, N entries (padded), D directions, R budgets asked for.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, scores_of_actions


@dataclass(frozen=True)
class Focus:
    """Values of detail by direction and prices, in score units."""

    expand_BN: Tensor
    """value of expanding the entry, or of inserting the absent block"""
    collapse_BN: Tensor
    """value of the detail that a collapse of the entry's group, or a drop, would lose"""
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


Scores = Tensor | Focus
"""what a network gives: scores [B, N], or values with a price"""


@dataclass(frozen=True)
class Direction:
    """One kind of action on every entry of a batch, legal or not."""

    sign: int
    """1 shows more, −1 less"""
    value_BN: Tensor
    """value of the detail that it adds or loses: of what takes K entries the mean over them, as the allocator
    aggregates"""
    positions_BN: Tensor
    """positions that it adds or frees"""
    share_BN: Tensor
    """those positions divided by the number of entries that the action takes"""
    legal_BN: Tensor

    def scores(self, price_BR: Tensor) -> Tensor:
        """Signed scores u = v − price · positions [B, R, N]."""
        return self.value_BN[:, None] - price_BR[:, :, None] * self.positions_BN[:, None]


def directions(expand_BN: Tensor, collapse_BN: Tensor, batch: Batch) -> list[Direction]:
    """Expands (and inserts), collapses, and where blocks may be absent drops, by the values of showing more
    and of showing less.

    A token's drop takes its block, as its collapse does; a gist's takes the gist alone.
    """
    size = batch.block_size
    apart_BN = batch.expand_positions.to(expand_BN.dtype)
    together_BN = batch.collapse_positions.to(expand_BN.dtype)
    more_BN = torch.where(batch.levels > batch.max_level, float(batch.insert_positions), apart_BN)
    of_group_BN = group_mean(collapse_BN, batch)
    found = [
        Direction(1, expand_BN, more_BN, more_BN, batch.can_expand),
        Direction(-1, of_group_BN, together_BN, together_BN / size, batch.can_collapse),
    ]
    if batch.can_drop is not None:
        is_token_BN, own_BN = batch.levels == 0, batch.entry_positions.to(expand_BN.dtype)
        dropped_BN = torch.where(is_token_BN, of_group_BN, collapse_BN)
        freed_BN = torch.where(is_token_BN, size * own_BN, own_BN)
        found.append(Direction(-1, dropped_BN, freed_BN, own_BN, batch.can_drop))
    return found


def action_scores(focus: Focus, batch: Batch) -> list[Tensor]:
    """Signed scores [B, N] of each of the `directions`, legal or not, at the first of the budgets."""
    found = directions(focus.expand_BN, focus.collapse_BN, batch)
    return [direction.scores(focus.price_BR[:, :1])[:, 0] for direction in found]


def signed_scores(focus: Focus, batch: Batch) -> Tensor:
    """max(0, u_expand) + min(0, u_collapse, u_drop) of each entry [B, N], 0 in illegal directions.

    The single score of docs/specification/targets.md#one-target-per-entry, with the hard mask of
    docs/specification/inference.md#masking.
    """
    wanted_BN, *unwanted = (
        (direction.sign * direction.scores(focus.price_BR[:, :1])[:, 0]).relu() * direction.legal_BN
        for direction in directions(focus.expand_BN, focus.collapse_BN, batch)
    )
    return wanted_BN - torch.stack(unwanted).amax(dim=0)


def unmasked_scores(focus: Focus, batch: Batch) -> Tensor:
    """Mean of the signed scores of each entry's legal directions [B, N], 0 without any.

    Of either sign in any direction and differentiable everywhere: what pairs of contexts teach, whose terms
    ask for the sign of one score per entry.
    """
    found = directions(focus.expand_BN, focus.collapse_BN, batch)
    legal_DBN = torch.stack([direction.legal_BN for direction in found])
    scores_DBN = torch.stack(action_scores(focus, batch))
    return (scores_DBN * legal_DBN).sum(dim=0) / legal_DBN.sum(dim=0).clamp(min=1)


def action_values(scores: Scores, batch: Batch) -> Tensor:
    """Score of each measured action [B, A], of a `Focus` its value."""
    if isinstance(scores, Focus):
        return scores_of_actions(scores.expand_BN, batch, scores.collapse_BN)
    return scores_of_actions(scores, batch)


def merged_values(focus: Focus, batch: Batch) -> Tensor:
    """One value of detail per entry [B, N], to compare with its single target: the mean over its measured
    directions, of an entry without any over both."""
    more_BN = (batch.expand_action >= 0).float()
    less_BN = (batch.collapse_action >= 0).float()
    if batch.drop_action is not None:
        less_BN = less_BN + (batch.drop_action >= 0)
    is_unmeasured_BN = more_BN + less_BN == 0
    more_BN, less_BN = more_BN + is_unmeasured_BN, less_BN + is_unmeasured_BN
    merged_BN = (more_BN * focus.expand_BN + less_BN * focus.collapse_BN) / (more_BN + less_BN)
    return merged_BN * batch.entry_mask


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
