"""The counterfactual objective: regression, ranking, budget and illegality terms of scores and a batch.

Every term is a sum divided by a count that depends on labels alone. A batch can therefore be run in parts, on
several workers or one after the other: with the counts of the whole batch passed in, terms and gradients of
the parts add up to those of the whole batch exactly.

Every term and gradient is finite when nothing is measured, when one entry is, and when all targets are equal.

A network with a price head (`Focus`) gives values v and a price: L_reg and L_rank are of v against unclipped
values, L_budget and L_illegal of u = v − price · positions. L_budget trains the price alone and L_illegal the
values of illegal directions, so neither bends the values that are measured.

Shapes: B snapshots, N entries (padded), A actions (padded), R budgets asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.focus import Focus, Scores, action_values, merged_values
from mctrace.train.objectives.budget import (
    asked_mass,
    asked_rooms,
    budget_masses,
    focus_masses,
    specification_masses,
)
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.label_weights import (
    action_indices,
    action_weights,
    direction_weights,
    entry_weights,
    of_entries,
)
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
    scores: Scores, batch: Batch, objective: ObjectiveConfig, counts: Counts | None = None
) -> LossTerms:
    """L_reg + rank_weight·L_rank + budget_weight·L_budget + L_illegal (docs/specification/losses.md#total).

    The illegality term carries its own weights. Computed in float32 whatever the scores' dtype. `counts` are
    those of the whole batch that this one is a part of. Budget and illegality concern the sign of scores:
    they are missing where a network gives scores and utilities are not `signed`.
    """
    scores = scores.float()
    has_price = isinstance(scores, Focus)
    counts = counterfactual_counts(batch, objective, has_price=has_price) if counts is None else counts
    terms = {
        "L_reg": regression_loss(scores, batch, objective, counts["L_reg"]),
        "L_rank": _ranking(scores, batch, objective, counts["L_rank"]),
    }
    if has_price or batch.signed:
        terms["L_budget"] = budget_loss(scores, batch, objective, counts["L_budget"])
        terms["L_illegal"] = illegality_loss(scores, batch, objective, counts)
    weights = {"L_rank": objective.rank_weight, "L_budget": objective.budget_weight}
    total = terms["L_reg"]
    for name, term in terms.items():
        if name != "L_reg":
            total = total + weights.get(name, 1.0) * term
    return LossTerms(total, terms)


def counterfactual_counts(
    batch: Batch, objective: ObjectiveConfig, *, has_price: bool = False
) -> dict[str, Tensor]:
    """The divisors of the terms of `counterfactual_loss`; that of L_budget is 0 where it is not computed."""
    items, present = _ranked_items(batch, objective)
    number = float(len(batch)) if objective.budget == "positions" else 1.0
    weights = direction_weights(batch, objective) if has_price else [entry_weights(batch, objective)]
    return {
        "L_reg": torch.stack(weights).sum(),
        "L_rank": ranking_count(
            _in_scope(items, objective), _in_scope(present, objective) > 0, objective.rank_margin
        ),
        "L_budget": batch.levels.new_tensor(
            number if has_price or batch.signed else 0.0, dtype=torch.float32
        ),
        "illegal_expand": _tokens(batch).sum().float(),
        "illegal_collapse": _coarsest(batch).sum().float(),
    }


def regression_loss(
    scores: Scores, batch: Batch, objective: ObjectiveConfig, count: Tensor | None = None
) -> Tensor:
    """Weighted mean square of (s_i − y_i) over the measured entries of the whole batch; 0 if there is none.

    L_reg = Σ w_i (s_i − y_i)² / Σ w_i. With all weights 1: docs/specification/losses.md#regression. Values of
    a `Focus` are compared direction by direction, each with its own action's utility.
    """
    if isinstance(scores, Focus):
        weights = direction_weights(batch, objective)
        values = [scores.expand_BN, *[scores.collapse_BN] * (len(weights) - 1)]
        sums = [
            (
                weights_BN * penalty(values_BN - of_entries(batch.action_utilities, index_BN, 0.0), objective)
            ).sum()
            for values_BN, index_BN, weights_BN in zip(values, action_indices(batch), weights, strict=True)
        ]
        count = torch.stack(weights).sum() if count is None else count
        return torch.stack(sums).sum() / _at_least_something(count)
    weights_BN = entry_weights(batch, objective)
    count = weights_BN.sum() if count is None else count
    squares_BN = penalty(scores - batch.target_utilities, objective)
    return (weights_BN * squares_BN).sum() / _at_least_something(count)


def penalty(residual: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Square of a residual r in score units; beyond the limit d 2·d·|r| − d² (`huber`) or d² (`clipped`)."""
    if objective.residual == "squares":
        return residual**2
    limit, size = objective.residual_limit, residual.abs()
    inside = size.clamp(max=limit)
    return inside**2 + (2 * limit * (size - inside) if objective.residual == "huber" else 0.0)


def budget_loss(
    scores: Scores, batch: Batch, objective: ObjectiveConfig, count: Tensor | None = None
) -> Tensor:
    """Mean over snapshots of ((P − N) / (ε + P + N))²: 0 when expansion and collapse masses are equal.

    Formula: docs/specification/losses.md#budget. P and N are `budget_masses` per snapshot, so a surplus in
    one working context never compensates for another. With `budget = "specification"` P and N are the
    specification's sums over the whole batch, averaged over parts when it is run in parts. That of a `Focus`
    is `price_loss`.
    """
    if isinstance(scores, Focus):
        squares = price_loss(scores.value_detached(), batch)
    elif objective.budget == "specification":
        squares = net_mass(*specification_masses(scores, batch)) ** 2
    else:
        squares = net_mass(*budget_masses(scores, batch)) ** 2
    count = squares.new_tensor(float(squares.numel())) if count is None else count
    return squares.sum() / count


def price_loss(focus: Focus, batch: Batch) -> Tensor:
    """Mean over the budgets asked for of ((P − N − D) / (ε + P + N + |D|))² of each snapshot [B].

    P and N are `focus_masses`, D is `asked_mass`, 0 at a context's own size: the specification's formula.
    """
    masses = focus_masses(focus, batch)
    asked_BR = asked_mass(focus, batch, asked_rooms(batch), masses)
    net_BR = (masses[0] - masses[1] - asked_BR) / (BUDGET_EPS + masses[0] + masses[1] + asked_BR.abs())
    return net_BR.square().mean(dim=1)


def net_mass(expansion: Tensor, collapse: Tensor) -> Tensor:
    """(P − N) / (ε + P + N), between −1 (only collapses) and 1 (only expansions)."""
    return (expansion - collapse) / (BUDGET_EPS + expansion + collapse)


def illegality_loss(
    scores: Scores, batch: Batch, objective: ObjectiveConfig, counts: Counts | None = None
) -> Tensor:
    """α·Σ_{level 0} ReLU(s_i) + β·Σ_{coarsest} ReLU(−s_i) over the batch, or the same with means.

    Formula: docs/specification/losses.md#illegality. With `illegality = "mean"` each sum is divided by
    the entries of its level, so that a few coarse gists weigh as much as thousands of tokens. Of a `Focus`
    the signed scores of the illegal direction count, with gradients to its values only; it has no positions
    of its own and pays for K − 1.
    """
    expand_BN, collapse_BN = _by_direction(scores, batch)
    expand = (torch.relu(expand_BN) * _tokens(batch)).sum()
    collapse = (torch.relu(-collapse_BN) * _coarsest(batch)).sum()
    if objective.illegality == "mean":
        counts = counterfactual_counts(batch, objective) if counts is None else counts
        expand = expand / counts["illegal_expand"].clamp(min=1)
        collapse = collapse / counts["illegal_collapse"].clamp(min=1)
    return objective.illegal_expand * expand + objective.illegal_collapse * collapse


def _by_direction(scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
    if not isinstance(scores, Focus):
        return scores, scores
    cost_B1 = scores.price_BR[:, :1].detach() * (batch.block_size - 1)
    return scores.expand_BN - cost_B1, scores.collapse_BN - cost_B1


def _ranking(scores: Scores, batch: Batch, objective: ObjectiveConfig, count: Tensor) -> Tensor:
    targets, weights, scored = (
        _in_scope(found, objective)
        for found in (*_ranked_items(batch, objective), ranked_scores(scores, batch, objective))
    )
    sampled = objective.rank_pairs == "sampled" or (
        objective.rank_pairs == "auto" and targets.shape[1] > EXACT_UP_TO
    )
    return ranking_loss(
        scored,
        targets,
        weights > 0,
        objective.rank_margin,
        weights_BA=weights,
        num_partners=objective.rank_partners if sampled else None,
        count=count,
    )


def _in_scope(items: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Items [B, A] in rows that are ranked by themselves: one row where pairs cross snapshots."""
    return items.reshape(1, -1) if objective.rank_scope == "batch" else items


def ranked_scores(scores: Scores, batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """Scores of the ranked items: of actions [B, A], or of entries [B, N] as in the specification."""
    if objective.units == "entries":
        return merged_values(scores, batch) if isinstance(scores, Focus) else scores
    return action_values(scores, batch)


def _ranked_items(batch: Batch, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Targets and weights of the ranked items: actions, or every measured entry as in the specification."""
    if objective.units == "actions":
        return batch.action_utilities, action_weights(batch, objective)
    return batch.target_utilities, entry_weights(batch, objective)


def _tokens(batch: Batch) -> Tensor:
    return batch.entry_mask & (batch.levels == 0)


def _coarsest(batch: Batch) -> Tensor:
    return batch.entry_mask & (batch.levels == batch.coarsest)


def _at_least_something(count: Tensor) -> Tensor:
    """The divisor, 1 where nothing is measured."""
    return torch.where(count > 0, count, torch.ones_like(count))
