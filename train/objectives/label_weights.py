"""Label weights: by the inverse variance of a label and by the inverse of its inclusion probability.

Shapes: B snapshots, N entries (padded), A actions (padded).
"""

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.objectives.config import ObjectiveConfig


def action_weights(batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """Weights [B, A] of actions in the ranking term; 0 where padded.

    The product of `precision` and 1 / inclusion probability, each 1 where it is not configured.
    """
    weights_BA = batch.action_present.float()
    if objective.label_weights == "inverse_variance":
        weights_BA = weights_BA * precision(_variance(batch), objective.variance_floor)
    if objective.weigh_by_inclusion:
        weights_BA = weights_BA / batch.action_inclusion
    return weights_BA


def entry_weights(batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """Weights [B, N] of entries in the regression term; 0 where nothing was measured.

    `units = "actions"` starts from the batch's regression weights (a collapse counts once instead of K
    times), `"entries"` from 1. The target of an entry that can both expand and collapse is the sum of two
    labels, so their variances add, or their mean where utilities are not `signed`; its inclusion probability
    is the expand's.
    """
    measured_BN = batch.action_mask.float()
    weights_BN = measured_BN * batch.regression_weights if objective.units == "actions" else measured_BN
    if objective.label_weights == "inverse_variance":
        variance_BA = _variance(batch)
        variance_BN = sum(
            (of_entries(variance_BA, index, 0.0) for index in action_indices(batch)),
            start=torch.zeros_like(weights_BN),
        )
        if not batch.signed:
            num_measured_BN = sum(
                ((index >= 0).float() for index in action_indices(batch)),
                start=torch.zeros_like(weights_BN),
            )
            variance_BN = variance_BN / num_measured_BN.clamp(min=1) ** 2
        weights_BN = weights_BN * precision(variance_BN, objective.variance_floor)
    if objective.weigh_by_inclusion:
        inclusion_BN = torch.ones_like(weights_BN)
        for index_BN in reversed(action_indices(batch)):
            of_action_BN = of_entries(batch.action_inclusion, index_BN, 1.0)
            inclusion_BN = torch.where(index_BN >= 0, of_action_BN, inclusion_BN)
        weights_BN = weights_BN / inclusion_BN
    return weights_BN


def direction_weights(batch: Batch, objective: ObjectiveConfig) -> list[Tensor]:
    """Weights [B, N] of each entry's expand, of its share of the collapse that takes it and, where blocks may
    be absent, of its share of the drop that does, in the regression term of a network that gives a value for
    each direction; 0 where not measured.

    `units = "actions"` counts a collapse, and a drop of tokens, once: 1/K for each of its entries.
    """
    weights_BA = action_weights(batch, objective)
    found = [of_entries(weights_BA, index_BN, 0.0) for index_BN in action_indices(batch)]
    if objective.units == "actions":
        share = 1 / batch.block_size
        found[1] = share * found[1]
        found[2:] = [
            torch.where(batch.levels == 0, share * weights_BN, weights_BN) for weights_BN in found[2:]
        ]
    return found


def action_indices(batch: Batch) -> list[Tensor]:
    """Indices into A [B, N] of each entry's expand, its collapse and, where there are any, its drop."""
    indices = (batch.expand_action, batch.collapse_action, batch.drop_action)
    return [index_BN for index_BN in indices if index_BN is not None]


def precision(variance: Tensor, floor: float) -> Tensor:
    """floor² / (variance + floor²): 1 for a label without noise, 1/2 at a standard error equal to the floor.

    Proportional to the inverse of the residual variance of a network that predicts a utility up to `floor`
    (score units). Without the floor, a few labels that vary little over their horizon would outweigh all
    others.
    """
    return floor**2 / (variance + floor**2)


def _variance(batch: Batch) -> Tensor:
    """Variance of each label [B, A] in squared score units."""
    return (batch.action_stderr / batch.utility_scale) ** 2


def of_entries(values_BA: Tensor, index_BN: Tensor, fill: float) -> Tensor:
    """Values [B, N] of the action that each entry's index names; `fill` where it names none (-1)."""
    padded = torch.cat([values_BA, values_BA.new_full((len(values_BA), 1), fill)], dim=1)
    return padded.gather(1, torch.where(index_BN >= 0, index_BN, values_BA.shape[1]))
