"""The counterfactual objective: four terms, each a function of scores and a batch.

Every term is finite, with finite gradients, when nothing is measured, one entry is, or all targets are equal.

Shapes: B snapshots, N entries (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.datasets.batch import Batch, scores_of_actions
from mctrace.train.budget import budget_masses
from mctrace.train.config import ObjectiveConfig
from mctrace.train.ranking import ranking_loss

BUDGET_EPS = 1e-6
"""lensnet-training.md's constant under P + N, so that a net that scores nothing is balanced"""


@dataclass(frozen=True)
class LossTerms:
    """The objective of one batch and its terms before weighting; scalars, differentiable."""

    total: Tensor
    regression: Tensor
    rank: Tensor
    budget: Tensor
    illegality: Tensor

    def scalars(self) -> dict[str, float]:
        """The terms as numbers under the specification's names, brought over from the device at once."""
        names = ("loss", "L_reg", "L_rank", "L_budget", "L_illegal")
        terms = torch.stack([self.total, self.regression, self.rank, self.budget, self.illegality])
        return dict(zip(names, terms.detach().tolist(), strict=True))


def counterfactual_loss(scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig) -> LossTerms:
    """L_reg + rank_weight·L_rank + budget_weight·L_budget + L_illegal (lensnet-training.md).

    The illegality term carries its own weights. Computed in float32 whatever the scores' dtype.
    """
    scores_BN = scores_BN.float()
    regression = regression_loss(scores_BN, batch)
    rank = ranking_loss(
        scores_of_actions(scores_BN, batch),
        batch.action_utilities,
        batch.action_present,
        objective.rank_margin,
    )
    budget = budget_loss(scores_BN, batch)
    illegality = illegality_loss(scores_BN, batch, objective)
    total = regression + objective.rank_weight * rank + objective.budget_weight * budget + illegality
    return LossTerms(total, regression, rank, budget, illegality)


def regression_loss(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Weighted mean square of (s_i − y_i) over the measured entries of the whole batch; 0 if there is none.

    L_reg = Σ w_i (s_i − y_i)² / Σ w_i. With all weights 1 it is lensnet-training.md's "Regression Loss"; the
    batch's weights count a collapse once instead of K times.
    """
    weights_BN = batch.regression_weights * batch.action_mask
    squares_BN = (scores_BN - batch.target_utilities) ** 2
    total = weights_BN.sum()
    return (weights_BN * squares_BN).sum() / torch.where(total > 0, total, torch.ones_like(total))


def budget_loss(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Mean over snapshots of ((P − N) / (ε + P + N))²: 0 when expansions and collapses pay for each other.

    Formula: lensnet-training.md, "Budget Regularizer". P and N are `budget_masses`; each snapshot has its own
    working context, so a surplus in one never pays for another.
    """
    expansion_B, collapse_B = budget_masses(scores_BN, batch)
    imbalance_B = (expansion_B - collapse_B) / (BUDGET_EPS + expansion_B + collapse_B)
    return (imbalance_B**2).mean()


def illegality_loss(scores_BN: Tensor, batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """α·Σ_{level 0} ReLU(s_i) + β·Σ_{max_level} ReLU(−s_i) over the batch, or the same with means.

    Formula: lensnet-training.md, "Illegality Penalties". With `illegality = "mean"` each sum is divided by
    the entries of its level, so that a few coarse gists weigh as much as thousands of tokens.
    """
    token_BN = batch.entry_mask & (batch.levels == 0)
    coarsest_BN = batch.entry_mask & (batch.levels == batch.max_level)
    expand = (torch.relu(scores_BN) * token_BN).sum()
    collapse = (torch.relu(-scores_BN) * coarsest_BN).sum()
    if objective.illegality == "mean":
        expand = expand / token_BN.sum().clamp(min=1)
        collapse = collapse / coarsest_BN.sum().clamp(min=1)
    return objective.illegal_expand * expand + objective.illegal_collapse * collapse
