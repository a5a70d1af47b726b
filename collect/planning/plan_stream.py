"""Plan of a run as a stream: documents with their units, made as they are needed and kept by nobody.

Texts are read, tokenised, signed and planned in batches by a `Stage`: a thread of this process, or tasks on a
cluster. Batches come back in their order, so ids do not depend on who made them. The placement of a document
in a split depends on those before it, and is therefore made here, one by one.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mctrace.collect.config import CollectConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document, DocumentChoice, DocumentMaker
from mctrace.collect.corpus.lazy_texts import SourceText
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.planning.document_plan import MapMaker, estimator_of, plan_document
from mctrace.collect.planning.estimators import Estimator
from mctrace.collect.planning.model_limits import ModelLimits
from mctrace.collect.planning.run_plan import RunPlan, no_snapshot
from mctrace.collect.planning.work_units import WorkUnit
from mctrace.datasets.store.provenance import Provenance
from mctrace.progress import Progress

MOST_AT_FIRST = 64
"""Documents that are planned before the workers start: what calibration and noise floor are drawn from."""
SECONDS_AT_FIRST = 10.0
"""Seconds after which planning at first ends as soon as there is something to measure."""
BATCH = 8
"""Texts that are made into documents together."""
TOO_SHORT = "too short for a snapshot"
"""Reason for leaving out a document."""


@dataclass(frozen=True)
class PlannedDocument:
    """A document and its units; each trajectory before its side measurements."""

    document: Document
    units: tuple[WorkUnit, ...]

    def exactly(self) -> "PlannedDocument":
        """The same with every action measured exactly."""
        return PlannedDocument(self.document, tuple(unit.exactly() for unit in self.units))


@dataclass(frozen=True)
class PlannedBatch:
    """Documents that were made and planned together."""

    documents: tuple[PlannedDocument, ...]
    skipped: Skipped
    num_texts: int
    """places in the corpus that they were made from"""


@dataclass(frozen=True)
class DocumentPlanner:
    """From texts to planned documents: all of a stage's work, as a value that can be sent."""

    maker: DocumentMaker
    config: CollectConfig
    provenance: Provenance
    limits: ModelLimits
    plans: bool = True
    """whether documents are planned where they are made; the policy `lensnet` needs a model for that"""
    counted_at: int | None = None
    """entries of a pass for which units are counted where they are planned, so that the driver need not"""

    def __call__(self, texts: Sequence[SourceText]) -> PlannedBatch:
        made = self.maker(texts)
        if not self.plans:
            planned = tuple(PlannedDocument(document, ()) for document in made.documents)
        else:
            planned = tuple(map(self.plan, made.documents))
        return PlannedBatch(planned, made.skipped, len(texts))

    def plan(self, document: Document, lensnet: MapMaker | None = None) -> PlannedDocument:
        """A document's units. Raises ModelError when they do not fit the base model."""
        units = tuple(plan_document(document, self.config, self.provenance, lensnet))
        planned = PlannedDocument(document, units)
        self.limits.refuse_unfit(document, units)
        if self.counted_at is not None:
            for unit in units:
                unit.size(self.counted_at)  # kept with the unit
        return planned


Planner = Callable[[Sequence[SourceText]], PlannedBatch]


class Stage(Protocol):
    """Who makes batches: results come in the order of the batches, and only so many are made ahead."""

    def map(self, planner: Planner, batches: Iterable[Sequence[SourceText]]) -> Iterator[PlannedBatch]: ...


class PlanStream(Protocol):
    """Planned documents, their placements and what they depend on."""

    provenance: Provenance
    estimator: Estimator
    lensnet_identity: str | None
    assigner: SplitAssigner

    @property
    def share_planned(self) -> float:
        """Share of the corpus that was yielded, about."""
        ...

    def __iter__(self) -> Generator[PlannedDocument]: ...

    def spread(self, stage: Stage, batch_tokens: int) -> None:
        """From the next batch on, have `stage` make them, and count them for passes of `batch_tokens`."""
        ...


class CorpusStream:
    """The documents of a corpus, planned."""

    def __init__(
        self,
        texts: Sequence[SourceText],
        planner: DocumentPlanner,
        assigner: SplitAssigner,
        skipped: Skipped,
        stage: Stage,
        lensnet: MapMaker | None = None,
    ) -> None:
        self.provenance = planner.provenance
        self.estimator = estimator_of(planner.config)
        self.lensnet_identity = lensnet.identity if lensnet else None
        self.assigner = assigner
        self._planner, self._skipped, self._stage = replace(planner, plans=lensnet is None), skipped, stage
        self._lensnet = lensnet
        self._later: Stage | None = None
        # The first ones alone, so that there is something to measure soon.
        self._batches = _batches(texts)
        self._num_texts, self._num_read = len(texts), 0
        self._num_planned = self._num_yielded = 0
        self._first: deque[PlannedDocument] = deque()
        self._rest = self._planned()

    @property
    def share_planned(self) -> float:
        limit = self._planner.maker.config.limit
        of_limit = self._num_planned / limit if limit else 0.0
        planned = max(of_limit, self._num_read / max(1, self._num_texts))
        return planned * self._num_yielded / max(1, self._num_planned)

    def spread(self, stage: Stage, batch_tokens: int) -> None:
        self._later = stage
        self._planner = replace(self._planner, counted_at=batch_tokens)

    def plan_first(self, progress: Progress) -> None:
        """Plan the first documents now, so that what is wrong with them shows before a store is made.

        Raises what iterating raises.
        """
        progress.start("planning documents", None, "documents")
        started = time.perf_counter()
        try:
            for planned in self._rest:
                self._first.append(planned)
                progress.advance(1)
                if len(self._first) >= MOST_AT_FIRST or time.perf_counter() - started > SECONDS_AT_FIRST:
                    break
        finally:
            progress.stop()

    def __iter__(self) -> Generator[PlannedDocument]:
        """Every document that is long enough. Raises InputError when there is none, or a split is empty."""
        try:
            while self._first:
                self._num_yielded += 1
                yield self._first.popleft()
            for planned in self._rest:
                self._num_yielded += 1
                yield planned
        finally:
            self._rest.close()

    def _planned(self) -> Generator[PlannedDocument]:
        choice = DocumentChoice(self._planner.maker.config, self.assigner, self._skipped)
        longest: Document | None = None
        for batch in self._made():
            self._skipped.take_in(batch.skipped)
            self._num_read += batch.num_texts
            for planned in batch.documents:
                document = None if choice.is_complete else choice.take(planned.document)
                if document and self._lensnet:
                    planned = self._planner.plan(document, self._lensnet)
                if document and planned.units:
                    self._num_planned += 1
                    yield PlannedDocument(document, planned.units)
                elif document:
                    self._skipped.add(TOO_SHORT, document.source)
                    longest = max(longest or document, document, key=lambda one: one.num_tokens)
            if choice.is_complete:
                break
        choice.refuse_empty()
        if not self._num_planned and longest:
            raise no_snapshot(longest)

    def _made(self) -> Iterator[PlannedBatch]:
        yield from self._stage.map(self._planner, self._until_spread())
        if self._later:
            yield from self._later.map(self._planner, self._batches)

    def _until_spread(self) -> Iterator[Sequence[SourceText]]:
        while self._later is None and (batch := next(self._batches, None)) is not None:
            yield batch


def _batches(texts: Sequence[SourceText]) -> Iterator[Sequence[SourceText]]:
    for first in range(min(BATCH, len(texts))):
        yield texts[first : first + 1]
    for first in range(BATCH, len(texts), BATCH):
        yield texts[first : first + BATCH]


class PlanInMemory:
    """A plan that is whole already, such as that of a trace file."""

    def __init__(self, plan: RunPlan, assigner: SplitAssigner) -> None:
        self.provenance, self.estimator = plan.provenance, plan.estimator
        self.lensnet_identity, self.assigner = plan.lensnet_identity, assigner
        self._plan = plan

    @property
    def share_planned(self) -> float:
        return 1.0

    def spread(self, stage: Stage, batch_tokens: int) -> None:
        """Nothing is left to make."""

    def __iter__(self) -> Generator[PlannedDocument]:
        by_document: dict[str, list[WorkUnit]] = {}
        for unit in self._plan.units:
            by_document.setdefault(unit.document_id, []).append(unit)
        for identity, document in self._plan.documents.items():
            self.assigner.place_as(identity, document.placement, document.origin)
            yield PlannedDocument(document, tuple(by_document.get(identity, ())))
