"""What a run still has to measure: planned documents without what the ledger lists, as items for its workers.

Nothing stays here of an item that was given out. A few placed documents wait in a buffer, from which each
driver takes them in an order of its own, so that two drivers over one corpus rarely measure the same; what
another has committed meanwhile is left out when its turn comes.
"""

import random
import time
from collections.abc import Iterator

from mctrace.collect.cluster.faults import patiently
from mctrace.collect.corpus.documents import Document
from mctrace.collect.corpus.placement_commits import PlacementCommits
from mctrace.collect.planning.part_ids import document_part_id, embeddings_part_id, vocabulary_part_id
from mctrace.collect.planning.plan_stream import (
    MOST_AT_FIRST,
    SECONDS_AT_FIRST,
    PlannedDocument,
    PlanStream,
)
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.work_units import PlannedTrajectory, WorkUnit
from mctrace.collect.running.quarantine import outside_quarantine
from mctrace.collect.workers.worker import WorkItem
from mctrace.datasets.store.store import Store
from mctrace.progress import Progress

_BUFFER = 256
"""Placed documents among which the next one is drawn."""
_GATHERING = 5
"""Documents are gathered for this many times as long as the last commit of placements took."""


class RemainingWork:
    """The stream's documents of which the store lacks something."""

    def __init__(self, store: Store, stream: PlanStream, quarantined: frozenset[str] = frozenset()) -> None:
        """`quarantined` are the part ids of units that are left out, with what is measured beside them."""
        self._store, self.stream, self._quarantined = store, stream, quarantined
        self._planned = iter(stream)
        self._first: PlannedDocument | None = None
        self._repeated: str | None = None
        """document that is measured again for the sake of the tables"""
        self._commit_seconds = 0.0
        self.is_exact = False
        """whether every action is measured exactly, whatever was planned"""
        self.is_whole = False
        """whether the stream has ended"""
        self.head: list[PlannedDocument] = []
        """documents that were planned first and are not given out"""
        self._whole_head: list[PlannedDocument] = []
        """the same with what the store has of them, until they are given out"""
        self.num_planned = 0
        self.num_trajectories = 0
        self.num_documents = 0
        self.num_done = 0
        self.num_in_quarantine = 0
        store.ledger.refresh()

    def plan_head(self, progress: Progress) -> list[PlannedDocument]:
        """The first documents of which something is missing; none where nothing is.

        Where the store lacks the embedding table or the vocabulary alone, one unit is measured again for it.
        """
        progress.start("finding what is missing", None, "documents")
        started = time.perf_counter()
        try:
            while len(self.head) < MOST_AT_FIRST and not self.is_whole:
                self._plan_one(progress)
                if self.head and time.perf_counter() - started > SECONDS_AT_FIRST:
                    break
        finally:
            progress.stop()
        if not self.head and self._first and not self._has_tables():
            self._repeated = self._first.document.document_id
            self.head.append(self._first)
        return self.head

    def decide(self, *, is_exact: bool) -> None:
        """Measure every action exactly from now on, or as planned; what was planned first is counted again.

        Documents that the store has whole as they were planned are left to the next run.
        """
        if is_exact and not self.is_exact:
            self.is_exact = True
            for planned in self._whole_head:
                self._count(planned, -1)
                self._count(planned.exactly())
            exact = [planned.exactly() for planned in self._whole_head or self.head]
            self._whole_head = [planned for planned in exact if self.missing(planned)]
            self.head = [left for planned in exact if (left := self.missing(planned))]

    def head_plan(self) -> RunPlan:
        """The first documents as a plan."""
        return RunPlan(
            {planned.document.document_id: planned.document for planned in self.head},
            tuple(unit for planned in self.head for unit in planned.units),
            self.stream.provenance,
            lensnet_identity=self.stream.lensnet_identity,
        )

    def close(self) -> None:
        """Nothing more is taken off the stream."""
        self._planned.close()

    def missing(self, planned: PlannedDocument) -> PlannedDocument | None:
        """What of a document the ledger lacks, as far as this driver knows; None where it lacks nothing."""
        listed, measurable = self._store.ledger.part_ids, self._measurable(planned)
        units = tuple(unit for unit in measurable if unit.part_id not in listed)
        if not units and self.lacks(planned.document):
            units = measurable[:1]  # one is measured again, for its document
        return PlannedDocument(planned.document, units) if units else None

    def lacks(self, document: Document) -> bool:
        """Whether the document's tokens and gists are not in the store."""
        part_id = document_part_id(document.document_id, self.stream.provenance)
        return part_id not in self._store.ledger.part_ids

    def items(self, placements: PlacementCommits, run_id: str) -> Iterator[WorkItem]:
        """Items, document by document; each brings its document for as long as the store lacks it, so that no
        trajectory is ever committed without it, whichever of its siblings is done first."""
        order, buffer = random.Random(run_id), list[PlannedDocument]()
        while True:
            if not buffer or (len(buffer) < _BUFFER and not self.is_whole):
                buffer += self._placed(placements)
            if not buffer:
                return
            chosen = order.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            planned = buffer.pop()
            left = planned if planned.document.document_id == self._repeated else self.missing(planned)
            part_id = document_part_id(planned.document.document_id, self.stream.provenance)
            for unit in left.units if left else ():
                yield WorkItem(planned.document, unit, part_id not in self._store.ledger.part_ids)

    def _placed(self, placements: PlacementCommits) -> list[PlannedDocument]:
        """The next documents, as many as come in a few times the seconds that a commit takes, with their
        placements committed."""
        deadline = time.perf_counter() + _GATHERING * self._commit_seconds
        while not self.is_whole and (not self.head or time.perf_counter() < deadline):
            if len(self.head) >= _BUFFER:
                break
            self._plan_one()
        batch, self.head, self._whole_head = self.head, [], []
        started = time.perf_counter()
        documents = [planned.document for planned in batch]
        placed = {d.document_id: d for d in patiently(lambda: placements.commit(documents))}
        self._commit_seconds = time.perf_counter() - started
        return [
            PlannedDocument(placed[planned.document.document_id], planned.units)
            for planned in batch
            if planned.document.document_id in placed
        ]

    def _plan_one(self, progress: Progress | None = None) -> None:
        """Takes one document off the stream; it joins the head if something of it is missing."""
        planned = next(self._planned, None)
        if planned is None:
            self.is_whole = True
            return
        if self.is_exact:
            planned = planned.exactly()
        if self._first is None and (measurable := self._measurable(planned)):
            self._first = PlannedDocument(planned.document, measurable[:1])
        self._count(planned)
        if left := self.missing(planned):
            self.head.append(left)
            self._whole_head.append(planned)
        if progress:
            progress.advance(1)

    def _count(self, planned: PlannedDocument, times: int = 1) -> None:
        listed = self._store.ledger.part_ids
        self.num_documents += times
        self.num_planned += times * len(planned.units)
        self.num_trajectories += times * sum(isinstance(unit, PlannedTrajectory) for unit in planned.units)
        self.num_done += times * sum(unit.part_id in listed for unit in planned.units)
        self.num_in_quarantine += times * (len(planned.units) - len(self._measurable(planned)))

    def _measurable(self, planned: PlannedDocument) -> tuple[WorkUnit, ...]:
        return tuple(outside_quarantine(planned.units, self._quarantined))

    def _has_tables(self) -> bool:
        provenance = self.stream.provenance
        tables = {embeddings_part_id(provenance), vocabulary_part_id(provenance.tokenizer_hash)}
        return tables <= self._store.ledger.part_ids
