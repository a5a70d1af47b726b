"""Summary of a GistNet evaluation: loss changes by corpus, setting and variant, with bootstrap intervals.

Intervals are bootstraps over documents, after averaging the windows of each document. `versus_deleted` is
paired by document: an upper end below zero means better than deletion. Medians and trimmed means stand beside
means, because single documents can carry most of a mean. Several corpora are also summarised together, as
`all`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.evaluation.loss_changes import Diversity, GistSetting, LossChange
from mctrace.gists.evaluation.variants import DELETED
from mctrace.train.evaluation.statistics import Interval, RobustCentres, bootstrap_interval, robust_centres

ALL = "all"
"""name of all corpora together"""


@dataclass(frozen=True)
class LossRow:
    """Loss change to the full text of one corpus, setting, variant and horizon, nats per token."""

    corpus: str
    setting: GistSetting
    variant: str
    horizon: int
    full_nll: float
    """mean loss in full text"""
    delta_nll: Interval
    versus_deleted: Interval | None
    """delta_nll minus that of deletion, paired by document; None for deletion itself"""
    robust: RobustCentres | None
    """of the same differences to deletion"""


@dataclass(frozen=True)
class CopyRow:
    """The copy test of one corpus, setting and variant: loss of repeated collapsed blocks, nats per token."""

    corpus: str
    setting: GistSetting
    variant: str
    full_nll: float
    delta_nll: Interval
    versus_deleted: Interval | None
    robust: RobustCentres | None


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
    copies: tuple[CopyRow, ...]
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
        tuple(_copy_rows(measured, config)),
        tuple(_span_rows(measured, config)),
        tuple(_diversity(diversity, config)),
    )


def _rows(measured: list[LossChange], config: GistEvaluationConfig) -> Iterable[LossRow]:
    for (corpus, setting, variant), items, deleted in _groups(measured):
        for horizon in config.horizons:
            full = _by_document((item.document.document_id, item.full_nll[horizon]) for item in items)
            own, less = (
                _by_document((item.document.document_id, item.delta_nll[horizon]) for item in of)
                for of in (items, deleted)
            )
            full_nll = sum(full.values()) / len(full)
            yield LossRow(
                corpus, setting, variant, horizon, full_nll, *_compared(own, less, variant, config.seed)
            )


def _copy_rows(measured: list[LossChange], config: GistEvaluationConfig) -> Iterable[CopyRow]:
    for (corpus, setting, variant), items, deleted in _groups(measured):
        tests, deleted_tests = (
            [(item.document.document_id, item.copies) for item in of if item.copies]
            for of in (items, deleted)
        )
        if not tests:
            continue
        full = _by_document((document, test.full_nll) for document, test in tests)
        own, less = (
            _by_document((document, test.delta_nll) for document, test in of) for of in (tests, deleted_tests)
        )
        full_nll = sum(full.values()) / len(full)
        yield CopyRow(corpus, setting, variant, full_nll, *_compared(own, less, variant, config.seed))


def _groups(
    measured: list[LossChange],
) -> Iterable[tuple[tuple[str, GistSetting, str], list[LossChange], list[LossChange]]]:
    """Each corpus, setting and variant with its results and those of deletion."""
    groups: dict[tuple[str, GistSetting, str], list[LossChange]] = {}
    several = len({item.document.corpus for item in measured}) > 1
    for item in measured:
        if item.setting is not None:
            for corpus in (item.document.corpus, *((ALL,) if several else ())):
                groups.setdefault((corpus, item.setting, item.variant), []).append(item)
    for group, items in sorted(groups.items(), key=_order):
        yield group, items, groups[group[0], group[1], DELETED]


def _compared(
    own: Mapping[str, float], deleted: Mapping[str, float], variant: str, seed: int
) -> tuple[Interval, Interval | None, RobustCentres | None]:
    """The variant's change, and what it differs from deletion's by, paired by document."""
    change = bootstrap_interval(own, seed)
    if variant == DELETED:
        return change, None, None
    paired = {document: own[document] - deleted[document] for document in own}
    return change, bootstrap_interval(paired, seed), robust_centres(paired, seed)


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
    return corpus == ALL, corpus, setting.level, setting.placement, setting.share, variant != DELETED, variant
