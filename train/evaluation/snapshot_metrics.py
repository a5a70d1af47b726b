"""Metrics of one snapshot's scores, named as in docs/specification/metrics.md.

Ranking and correlations use one score per action, as the focus allocator does; mse and legality use entries.
Scores are the network's raw ones, before illegal directions are masked. Of a network with a price, values are
compared with labels, and the signed scores u = v − price · positions are balanced and legal or not.

Shapes: B snapshots, N entries (padded), A actions (padded); the suffix is dropped for one snapshot's arrays.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.evaluation.ranking_metrics import kendall_tau_b, ordered_pairs
from mctrace.train.evaluation.statistics import FloatArray, Moments, Ratio, Statistic
from mctrace.train.networks.focus import Focus, Scores, action_scores, action_values, merged_values
from mctrace.train.objectives.budget import budget_masses, focus_masses

BALANCE_EPS = 1e-6
"""P + N (score·positions) below which a snapshot's balance is undefined"""

SnapshotMetrics = dict[str, Statistic]

_OF_SIGNS = ("budget_balance", "legality_compliance")


def snapshot_metrics(scores: Scores, batch: Batch) -> list[SnapshotMetrics]:
    """Metrics of each snapshot of a batch, all with the same keys:

    - `mse`, and `mse_level_<l>` per entry_level: mean square of (s_i − y_i) over measured entries
    - `ranking_accuracy`: share of ordered pairs of actions that the scores order the same way
    - `kendall_tau`: Kendall's rank correlation of score and target over actions, ties counted (tau-b)
    - `utility_correlation`: Pearson of score and target over actions; should be positive
    - `score_delta_nll_expand`, `score_delta_nll_collapse`: Pearson of score and delta_nll (signs:
      docs/specification/metrics.md#expected-signs)
    - `budget_balance`: |P − N| / (P + N), 0 when balanced, 1 when one-sided
    - `legality_compliance`: share of entries whose score does not point in an illegal direction

    The last two concern the sign of scores: they are undefined where scores have no price and utilities are
    not `signed`.
    """
    scores = scores.detach().float()
    actions = zip(*(_arrays(t) for t in _action_tensors(scores, batch)), strict=True)
    entries = zip(*(_arrays(t) for t in _entry_tensors(scores, batch)), strict=True)
    masses = zip(*(_arrays(t) for t in _masses(scores, batch)), strict=True)
    found = [
        _of_entries(*entry, coarsest=batch.coarsest) | _of_actions(*action) | _of_masses(*mass)
        for entry, action, mass in zip(entries, actions, masses, strict=True)
    ]
    return (
        found
        if batch.signed or isinstance(scores, Focus)
        else [one | dict.fromkeys(_OF_SIGNS, Ratio(0.0, 0.0)) for one in found]
    )


def _masses(scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
    if not isinstance(scores, Focus):
        return budget_masses(scores, batch)
    expansion_BR, collapse_BR = focus_masses(scores, batch)
    return expansion_BR[:, 0], collapse_BR[:, 0]


def _entry_tensors(scores: Scores, batch: Batch) -> tuple[Tensor, ...]:
    """Values to compare with targets, signed scores of either direction, and what they are compared with."""
    if isinstance(scores, Focus):
        compared = (merged_values(scores, batch), *action_scores(scores, batch)[:2])
    else:
        compared = (scores, scores, scores)
    return *compared, batch.target_utilities, batch.levels, batch.action_mask, batch.entry_mask


def _action_tensors(scores: Scores, batch: Batch) -> tuple[Tensor, ...]:
    return (
        action_values(scores, batch),
        batch.action_utilities,
        batch.action_delta_nll,
        batch.action_is_expand,
        batch.action_present,
    )


def _arrays(tensor: Tensor) -> FloatArray:
    return tensor.detach().double().cpu().numpy()


def _of_entries(
    scores: FloatArray,
    expand_scores: FloatArray,
    collapse_scores: FloatArray,
    targets: FloatArray,
    levels: FloatArray,
    measured: FloatArray,
    present: FloatArray,
    *,
    coarsest: int,
) -> SnapshotMetrics:
    squares = (scores - targets) ** 2
    illegal = ((levels == 0) & (expand_scores > 0)) | ((levels == coarsest) & (collapse_scores < 0))
    legal = (present > 0) & ~illegal
    found: SnapshotMetrics = {
        "mse": _mean(squares, measured > 0),
        "legality_compliance": Ratio(float(legal.sum()), float(present.sum())),
    }
    for level in range(coarsest + 1):
        found[f"mse_level_{level}"] = _mean(squares, (measured > 0) & (levels == level))
    return found


def _of_actions(
    scores: FloatArray,
    utilities: FloatArray,
    delta_nll: FloatArray,
    is_expand: FloatArray,
    present: FloatArray,
) -> SnapshotMetrics:
    every = present > 0
    expand, collapse = every & (is_expand > 0), every & (is_expand == 0)
    correct, total = ordered_pairs(scores[every], utilities[every])
    return {
        "ranking_accuracy": Ratio(float(correct), float(total)),
        "kendall_tau": Ratio(*kendall_tau_b(scores[every], utilities[every])),
        "utility_correlation": Moments.of(scores[every], utilities[every]),
        "score_delta_nll_expand": Moments.of(scores[expand], delta_nll[expand]),
        "score_delta_nll_collapse": Moments.of(scores[collapse], delta_nll[collapse]),
    }


def _of_masses(expansion: FloatArray, collapse: FloatArray) -> SnapshotMetrics:
    total = float(expansion + collapse)
    return {"budget_balance": Ratio(abs(float(expansion - collapse)), total if total > BALANCE_EPS else 0.0)}


def _mean(values: FloatArray, mask: NDArray[np.bool_]) -> Ratio:
    return Ratio(float(values[mask].sum()), float(mask.sum()))
