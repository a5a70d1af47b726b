"""Summary of a GistNet evaluation: loss changes by corpus, setting and variant, with bootstrap intervals.

Intervals are bootstraps over documents, after averaging the windows of each document. `versus_deleted` is
paired by document: an upper end below zero means better than deletion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.evaluation.loss_changes import DELETED, Diversity, GistSetting, LossChange
from mctrace.train.evaluation.statistics import Interval, bootstrap_interval


@dataclass(frozen=True)
class LossRow:
    """Loss change to the full text of one corpus, setting, variant and horizon, nats per token."""

    corpus: str
    setting: GistSetting
    variant: str
    horizon: int
    delta_nll: Interval
    versus_deleted: Interval | None
    """delta_nll minus that of deletion, paired by document; None for deletion itself"""


@dataclass(frozen=True)
class SpanRow:
    """Share of single spans whose replacement by their gist costs less than the tolerance."""

    corpus: str
    variant: str
    horizon: int
    num_spans: int
    share_within_tolerance: Interval


@dataclass(frozen=True)
class DiversityRow:
    """Mean cosine distance of a document's gists: between neighbours and over all pairs."""

    corpus: str
    variant: str
    level: int
    neighbours: Interval
    pairs: Interval


@dataclass(frozen=True)
class EvaluationSummary:
    """The result of `mctrace gist evaluate`."""

    rows: tuple[LossRow, ...]
    spans: tuple[SpanRow, ...]
    diversity: tuple[DiversityRow, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise_evaluation(
    found: Iterable[LossChange | Diversity], config: GistEvaluationConfig
) -> EvaluationSummary:
    """Summarise the results of `evaluate_document` over all documents."""
    measured: list[LossChange] = []
    diversity: list[Diversity] = []
    for item in found:
        (measured if isinstance(item, LossChange) else diversity).append(item)  # type: ignore[arg-type]
    return EvaluationSummary(
        tuple(_rows(measured, config)),
        tuple(_span_rows(measured, config)),
        tuple(_diversity(diversity, config)),
    )


def _rows(measured: list[LossChange], config: GistEvaluationConfig) -> Iterable[LossRow]:
    groups: dict[tuple[str, GistSetting, str], list[LossChange]] = {}
    for item in measured:
        if item.setting is not None:
            groups.setdefault((item.document.corpus, item.setting, item.variant), []).append(item)
    for (corpus, setting, variant), items in sorted(groups.items(), key=_order):
        for horizon in config.horizons:
            own = _by_document((item.document.document_id, item.delta_nll[horizon]) for item in items)
            versus = None
            if variant != DELETED:
                deleted = _by_document(
                    (item.document.document_id, item.delta_nll[horizon])
                    for item in groups[corpus, setting, DELETED]
                )
                paired = {document: own[document] - deleted[document] for document in own}
                versus = bootstrap_interval(paired, config.seed)
            yield LossRow(corpus, setting, variant, horizon, bootstrap_interval(own, config.seed), versus)


def _span_rows(measured: list[LossChange], config: GistEvaluationConfig) -> Iterable[SpanRow]:
    groups: dict[tuple[str, str], list[LossChange]] = {}
    for item in measured:
        if item.setting is None:
            groups.setdefault((item.document.corpus, item.variant), []).append(item)
    for (corpus, variant), items in sorted(groups.items()):
        for horizon in config.horizons:
            within = _by_document(
                (item.document.document_id, float(item.delta_nll[horizon] < config.tolerance))
                for item in items
            )
            yield SpanRow(corpus, variant, horizon, len(items), bootstrap_interval(within, config.seed))


def _diversity(found: list[Diversity], config: GistEvaluationConfig) -> Iterable[DiversityRow]:
    groups: dict[tuple[str, str, int], list[Diversity]] = {}
    for item in found:
        groups.setdefault((item.document.corpus, item.variant, item.level), []).append(item)
    for (corpus, variant, level), items in sorted(groups.items()):
        neighbours = _by_document((item.document.document_id, item.neighbours) for item in items)
        pairs = _by_document((item.document.document_id, item.pairs) for item in items)
        yield DiversityRow(
            corpus,
            variant,
            level,
            bootstrap_interval(neighbours, config.seed),
            bootstrap_interval(pairs, config.seed),
        )


def _by_document(values: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    found: dict[str, list[float]] = {}
    for document, value in values:
        found.setdefault(document, []).append(value)
    return {document: sum(numbers) / len(numbers) for document, numbers in found.items()}


def _order(group: tuple[tuple[str, GistSetting, str], list[LossChange]]) -> tuple[Any, ...]:
    (corpus, setting, variant), _ = group
    return corpus, setting.level, setting.placement, setting.share, variant != DELETED, variant
