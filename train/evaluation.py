"""Judging a network on a split: metrics per document, for a bootstrap over documents, and pooled.

Shapes: B snapshots, N entries (padded).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

from torch import Tensor

from mctrace.context.errors import InputError
from mctrace.datasets.batch import Batch
from mctrace.train.config import ObjectiveConfig
from mctrace.train.estimates import Statistic
from mctrace.train.inference import device_of, evaluating
from mctrace.train.lensnet import LensNet
from mctrace.train.losses import LossTerms, counterfactual_loss
from mctrace.train.metrics import snapshot_metrics


@dataclass(frozen=True)
class EvaluationResult:
    """How a network did on a split. A metric is missing wherever nothing defines it."""

    loss: Mapping[str, float]
    """`loss`, `L_reg`, `L_rank`, `L_budget`, `L_illegal`: mean over batches, each weighing its snapshots"""
    pooled: Mapping[str, float]
    """metric -> its value over all snapshots taken together"""
    per_document: Mapping[str, Mapping[str, float]]
    """metric -> document id -> mean of the values of the document's snapshots"""
    num_undefined: Mapping[str, int]
    """metric -> snapshots left out because it is not defined for them"""
    num_snapshots: int

    def scalars(self) -> dict[str, float]:
        """Losses and pooled metrics in one dictionary, as telemetry and checkpoints keep them."""
        return {**self.loss, **self.pooled}


class Evaluation:
    """Collects the metrics of a split, batch by batch."""

    def __init__(self) -> None:
        self._statistics: dict[str, list[tuple[str, Statistic]]] = defaultdict(list)
        self._loss_sum: dict[str, float] = defaultdict(float)
        self._num_snapshots = 0

    def add(self, scores_BN: Tensor, batch: Batch, terms: LossTerms) -> None:
        """Count a batch with the scores it got and the loss they made."""
        for document, metrics in zip(batch.document_ids, snapshot_metrics(scores_BN, batch), strict=True):
            for name, statistic in metrics.items():
                self._statistics[name].append((document, statistic))
        for name, value in terms.scalars().items():
            self._loss_sum[name] += value * len(batch)
        self._num_snapshots += len(batch)

    def result(self) -> EvaluationResult:
        """What was collected; raises InputError when there was nothing."""
        if not self._num_snapshots:
            raise InputError(
                "the split to evaluate on has no snapshots: check its name and the store's version"
            )
        documents = {name: _per_document(found) for name, found in self._statistics.items()}
        return EvaluationResult(
            loss={name: total / self._num_snapshots for name, total in self._loss_sum.items()},
            pooled=_defined({name: _pooled(found) for name, found in self._statistics.items()}),
            per_document=documents,
            num_undefined={
                name: sum(statistic.value() is None for _, statistic in found)
                for name, found in self._statistics.items()
            },
            num_snapshots=self._num_snapshots,
        )


def evaluate(network: LensNet, batches: Iterable[Batch], objective: ObjectiveConfig) -> EvaluationResult:
    """Score every batch without dropout and judge the scores; the network's mode is put back afterwards."""
    with evaluating(network):
        return judge(network, (batch.to(device_of(network)) for batch in batches), objective)


def judge(
    scorer: Callable[[Batch], Tensor], batches: Iterable[Batch], objective: ObjectiveConfig
) -> EvaluationResult:
    """Judge anything that gives every entry a score [B, N], a network or a rule of thumb."""
    evaluation = Evaluation()
    for batch in batches:
        scores_BN = scorer(batch)
        evaluation.add(scores_BN, batch, counterfactual_loss(scores_BN, batch, objective))
    return evaluation.result()


def _pooled(found: list[tuple[str, Statistic]]) -> float | None:
    return reduce(add, (statistic for _, statistic in found)).value()


def _per_document(found: list[tuple[str, Statistic]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for document, statistic in found:
        value = statistic.value()
        if value is not None:
            values[document].append(value)
    return {document: sum(some) / len(some) for document, some in values.items()}


def _defined(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
