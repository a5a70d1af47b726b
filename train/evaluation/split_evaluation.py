"""Evaluation of a network or baseline on a split: metrics per document (for bootstrap intervals) and pooled.

Shapes: B snapshots, N entries (padded).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from statistics import fmean

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, PairBatch
from mctrace.errors import InputError
from mctrace.train.device import device_of
from mctrace.train.evaluation.batch_metrics import batch_metrics
from mctrace.train.evaluation.preference_metrics import group_agreement, group_moments
from mctrace.train.evaluation.snapshot_metrics import snapshot_metrics
from mctrace.train.evaluation.statistics import Statistic
from mctrace.train.inference import evaluation_mode
from mctrace.train.networks.focus import Scores
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import LossTerms, counterfactual_loss
from mctrace.train.objectives.lensnet_gradients import Examples, one_score
from mctrace.train.objectives.preference import preference_loss, variant_telemetry
from mctrace.train.objectives.preference_state import PreferenceState

ScoreFunction = Callable[[Batch], Scores]
"""maps a batch to scores [B, N], or to values and prices, on the CPU"""

_SPREADS = ("utility_correlation", "score_delta_nll_expand", "score_delta_nll_collapse", "preference_corr")
"""correlations that are also reported as mean, minimum and maximum over snapshots or groups"""


@dataclass(frozen=True)
class EvaluationResult:
    """Losses and metrics of a split. Undefined metrics are missing."""

    loss: Mapping[str, float]
    """`loss` and its terms: means over batches, weighted by their number of snapshots"""
    pooled: Mapping[str, float]
    """metric -> value over all snapshots together"""
    per_document: Mapping[str, Mapping[str, float]]
    """metric -> document id -> mean over the document's snapshots"""
    num_undefined: Mapping[str, int]
    """metric -> number of snapshots for which it is undefined"""
    num_snapshots: int
    """labelled snapshots"""
    num_variants: int = 0
    """contexts of preference pairs"""

    def scalars(self) -> dict[str, float]:
        """Losses and pooled metrics in one dictionary, as telemetry and checkpoints store them."""
        return {**self.loss, **self.pooled}


class MetricAccumulator:
    """Accumulates the metrics of a split, batch by batch."""

    def __init__(self, objective: ObjectiveConfig, state: PreferenceState | None = None) -> None:
        """`state` holds the deviation that normalises the advantages of pairs."""
        self._objective = objective
        self._state = state or PreferenceState(objective.preference)
        self._statistics: dict[str, list[tuple[str, Statistic]]] = defaultdict(list)
        self._extra: dict[str, list[float]] = defaultdict(list)
        self._evaluated: dict[str, Mapping[str, float]] = {}
        self._labels, self._pairs = _LossSums(), _LossSums()

    def add_labels(self, scores: Scores, batch: Batch) -> None:
        """Add a labelled batch and its scores."""
        for document, metrics in zip(batch.document_ids, snapshot_metrics(scores, batch), strict=True):
            for name, statistic in metrics.items():
                self._statistics[name].append((document, statistic))
        if self._objective.metrics_scope == "batch":
            for name, value in batch_metrics(one_score(scores, batch).detach(), batch).items():
                self._extra[name].append(value)
        self._labels.add(counterfactual_loss(scores, batch, self._objective), len(batch))

    def add_pairs(self, scores_BN: Tensor, pairs: PairBatch) -> None:
        """Add a batch of moves between variants, with the scores [B, N] of the contexts they start from."""
        document_of = dict(
            zip(pairs.groups, (pairs.contexts.document_ids[row] for row in pairs.row.tolist()), strict=True)
        )
        for group, moments in group_moments(scores_BN, pairs).items():
            self._statistics["preference_corr"].append((document_of[group], moments))
        for group, agreed in group_agreement(scores_BN, pairs).items():
            self._statistics["preference_agreement"].append((document_of[group], agreed))
        self._evaluated.update(pairs.evaluated)
        found = preference_loss(scores_BN, pairs, self._objective.preference, self._state)
        self._pairs.add(found, len(pairs.contexts))

    def result(self) -> EvaluationResult:
        """The accumulated result; raises InputError when nothing was added."""
        if not self._labels.number and not self._pairs.number:
            raise InputError(
                "the split to evaluate on has no snapshots: check its name and the store's version"
            )
        documents = {name: _per_document(found) for name, found in self._statistics.items()}
        pooled = _defined({name: _pooled(found) for name, found in self._statistics.items()})
        extra = {name: fmean(values) for name, values in self._extra.items()}
        if self._evaluated:
            extra |= variant_telemetry(self._evaluated)
        return EvaluationResult(
            loss=self._loss(),
            pooled={**pooled, **_spreads(self._statistics), **extra},
            per_document=documents,
            num_undefined={
                name: sum(statistic.value() is None for _, statistic in found)
                for name, found in self._statistics.items()
            },
            num_snapshots=self._labels.number,
            num_variants=self._pairs.number,
        )

    def _loss(self) -> dict[str, float]:
        labels, pairs = self._labels.means(), self._pairs.means()
        weight = self._objective.preference_weight if labels else 1.0
        return {**labels, **pairs, "loss": labels.get("loss", 0.0) + weight * pairs.get("loss", 0.0)}


class _LossSums:
    """Running sums of an objective's terms, weighted by the number of snapshots of each batch."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self.number = 0

    def add(self, terms: LossTerms, number: int) -> None:
        for name, value in terms.scalars().items():
            self._sums[name] += value * number
        self.number += number

    def means(self) -> dict[str, float]:
        return {name: total / self.number for name, total in self._sums.items()}


def evaluate_network(
    network: LensNet,
    examples: Iterable[Examples],
    objective: ObjectiveConfig,
    state: PreferenceState | None = None,
    *,
    bfloat16: bool = False,
) -> EvaluationResult:
    """Evaluate a network without dropout; its mode is restored afterwards."""
    return evaluate_scores(score_function(network, bfloat16=bfloat16), examples, objective, state)


def score_function(network: LensNet, *, bfloat16: bool = False) -> ScoreFunction:
    """The network's raw scores as a `ScoreFunction`; batches may be on any device."""
    device = device_of(network)

    def scores(batch: Batch) -> Scores:
        with evaluation_mode(network), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            batch = batch.to(device)
            found: Scores = network(batch, asked_rooms(batch))
        return found.float().cpu()

    return scores


def evaluate_scores(
    scorer: ScoreFunction,
    examples: Iterable[Examples],
    objective: ObjectiveConfig,
    state: PreferenceState | None = None,
) -> EvaluationResult:
    """Evaluate any score function, a network's or a baseline's."""
    return evaluate_all({"": scorer}, examples, objective, state)[""]


def evaluate_all(
    scorers: Mapping[str, ScoreFunction],
    examples: Iterable[Examples],
    objective: ObjectiveConfig,
    state: PreferenceState | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate several score functions on the same examples, which are read once."""
    evaluations = {name: MetricAccumulator(objective, state) for name in scorers}
    for one in examples:
        for name, scorer in scorers.items():
            if one.labels is not None:
                evaluations[name].add_labels(scorer(one.labels).float(), one.labels)
            if one.pairs is not None:
                scores_BN = one_score(scorer(one.pairs.contexts), one.pairs.contexts)
                evaluations[name].add_pairs(scores_BN.float(), one.pairs)
    return {name: evaluation.result() for name, evaluation in evaluations.items()}


def _pooled(found: list[tuple[str, Statistic]]) -> float | None:
    return reduce(add, (statistic for _, statistic in found)).value()


def _per_document(found: list[tuple[str, Statistic]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for document, statistic in found:
        value = statistic.value()
        if value is not None:
            values[document].append(value)
    return {document: sum(some) / len(some) for document, some in values.items()}


def _spreads(statistics: Mapping[str, list[tuple[str, Statistic]]]) -> dict[str, float]:
    """Mean, minimum and maximum of each correlation over snapshots or groups."""
    found: dict[str, float] = {}
    for name in _SPREADS:
        values = [value for _, one in statistics.get(name, []) if (value := one.value()) is not None]
        if values:
            found |= {f"{name}_mean": fmean(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    return found


def _defined(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
