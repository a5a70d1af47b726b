"""The counterfactual objective: regression, ranking, budget and illegality terms of scores and a batch.

Every term is a sum divided by a count that depends on labels alone. A batch can therefore be run in parts, on
several workers or one after the other: with the counts of the whole batch passed in, terms and gradients of
the parts add up to those of the whole batch exactly.

Every term and gradient is finite when nothing is measured, when one entry is, and when all targets are equal.

Shapes: B snapshots, N entries (padded), A actions (padded).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, scores_of_actions
from mctrace.train.objectives.budget import budget_masses, specification_masses
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.label_weights import action_weights, entry_weights
from mctrace.train.objectives.ranking import EXACT_UP_TO, ranking_count, ranking_loss

BUDGET_EPS = 1e-6
"""ε added to P + N (docs/specification/losses.md#budget): a network that scores 0 everywhere is balanced"""

Counts = Mapping[str, Tensor]
"""divisor of each term, scalars; the counts of parts add up to those of the batch"""


@dataclass(frozen=True)
class LossTerms:
    """An objective's total and its unweighted terms; differentiable scalars."""

    total: Tensor
    terms: Mapping[str, Tensor]
    """by the specification's names"""

    def scalars(self) -> dict[str, float]:
        """The total as `loss`, and the terms, as numbers; one transfer from the device."""
        values = torch.stack([self.total, *self.terms.values()])
        return dict(zip(("loss", *self.terms), values.detach().tolist(), strict=True))


def counterfactual_loss(
    scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig, counts: Counts | None = None
) -> LossTerms:
    """L_reg + rank_weight·L_rank + budget_weight·L_budget + L_illegal (docs/specification/losses.md#total).

    The illegality term carries its own weights. Computed in float32 whatever the scores' dtype. `counts` are
    those of the whole batch that this one is a part of. Budget and illegality concern the sign of scores:
    both are 0 where utilities are not `signed`.
    """
    scores_BN = scores_BN.float()
    counts = counterfactual_counts(batch, objective) if counts is None else counts
    terms = {
        "L_reg": regression_loss(scores_BN, batch, entry_weights(batch, objective), counts["L_reg"]),
        "L_rank": _ranking(scores_BN, batch, objective, counts["L_rank"]),
        "L_budget": scores_BN.new_zeros(()),
        "L_illegal": scores_BN.new_zeros(()),
    }
    if batch.signed:
        terms["L_budget"] = budget_loss(scores_BN, batch, objective, counts["L_budget"])
        terms["L_illegal"] = illegality_loss(scores_BN, batch, objective, counts)
    total = (
        terms["L_reg"]
        + objective.rank_weight * terms["L_rank"]
        + objective.budget_weight * terms["L_budget"]
        + terms["L_illegal"]
    )
    return LossTerms(total, terms)


def counterfactual_counts(batch: Batch, objective: ObjectiveConfig) -> dict[str, Tensor]:
    """The divisors of the terms of `counterfactual_loss`."""
    items, present = _ranked_items(batch, objective)
    number = float(len(batch)) if objective.budget == "positions" else 1.0
    return {
        "L_reg": entry_weights(batch, objective).sum(),
        "L_rank": ranking_count(items, present > 0, objective.rank_margin),
        "L_budget": batch.levels.new_tensor(number, dtype=torch.float32),
        "illegal_expand": _tokens(batch).sum().float(),
        "illegal_collapse": _coarsest(batch).sum().float(),
    }


def regression_loss(
    scores_BN: Tensor, batch: Batch, weights_BN: Tensor, count: Tensor | None = None
) -> Tensor:
    """Weighted mean square of (s_i − y_i) over the measured entries of the whole batch; 0 if there is none.

    L_reg = Σ w_i (s_i − y_i)² / Σ w_i. With all weights 1: docs/specification/losses.md#regression.
    """
    count = weights_BN.sum() if count is None else count
    squares_BN = (scores_BN - batch.target_utilities) ** 2
    return (weights_BN * squares_BN).sum() / torch.where(count > 0, count, torch.ones_like(count))


def budget_loss(
    scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig, count: Tensor | None = None
) -> Tensor:
    """Mean over snapshots of ((P − N) / (ε + P + N))²: 0 when expansion and collapse masses are equal.

    Formula: docs/specification/losses.md#budget. P and N are `budget_masses` per snapshot, so a surplus in
    one working context never compensates for another. With `budget = "specification"` P and N are the
    specification's sums over the whole batch, averaged over parts when it is run in parts.
    """
    if objective.budget == "specification":
        expansion, collapse = specification_masses(scores_BN, batch)
    else:
        expansion, collapse = budget_masses(scores_BN, batch)
    squares = net_mass(expansion, collapse) ** 2
    count = squares.new_tensor(float(squares.numel())) if count is None else count
    return squares.sum() / count


def net_mass(expansion: Tensor, collapse: Tensor) -> Tensor:
    """(P − N) / (ε + P + N), between −1 (only collapses) and 1 (only expansions)."""
    return (expansion - collapse) / (BUDGET_EPS + expansion + collapse)


def illegality_loss(
    scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig, counts: Counts | None = None
) -> Tensor:
    """α·Σ_{level 0} ReLU(s_i) + β·Σ_{max_level} ReLU(−s_i) over the batch, or the same with means.

    Formula: docs/specification/losses.md#illegality. With `illegality = "mean"` each sum is divided by
    the entries of its level, so that a few coarse gists weigh as much as thousands of tokens.
    """
    expand = (torch.relu(scores_BN) * _tokens(batch)).sum()
    collapse = (torch.relu(-scores_BN) * _coarsest(batch)).sum()
    if objective.illegality == "mean":
        counts = counterfactual_counts(batch, objective) if counts is None else counts
        expand = expand / counts["illegal_expand"].clamp(min=1)
        collapse = collapse / counts["illegal_collapse"].clamp(min=1)
    return objective.illegal_expand * expand + objective.illegal_collapse * collapse


def _ranking(scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig, count: Tensor) -> Tensor:
    targets, weights = _ranked_items(batch, objective)
    per_action = objective.units == "actions"
    scores = scores_of_actions(scores_BN, batch) if per_action else scores_BN
    sampled = objective.rank_pairs == "sampled" or (
        objective.rank_pairs == "auto" and targets.shape[1] > EXACT_UP_TO
    )
    return ranking_loss(
        scores,
        targets,
        weights > 0,
        objective.rank_margin,
        weights_BA=weights,
        num_partners=objective.rank_partners if sampled else None,
        count=count,
    )


def _ranked_items(batch: Batch, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Targets and weights of the ranked items: actions, or every measured entry as in the specification."""
    if objective.units == "actions":
        return batch.action_utilities, action_weights(batch, objective)
    return batch.target_utilities, entry_weights(batch, objective)


def _tokens(batch: Batch) -> Tensor:
    return batch.entry_mask & (batch.levels == 0)


def _coarsest(batch: Batch) -> Tensor:
    return batch.entry_mask & (batch.levels == batch.coarsest)
