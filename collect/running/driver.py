"""Driver of a collection run: skip what the ledger lists, measure the rest, commit as results come.

The flow is one loop. Whatever stops it, the ledger lists complete parts only, and the same command resumes
from there.
"""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.cluster.metrics import observe
from mctrace.collect.config import CollectConfig, CorpusConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.placement_commits import commit_placements
from mctrace.collect.measuring.estimator_agreement import LabelPair, compare_estimators
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.forecast import Forecast, forecast, total_work
from mctrace.collect.planning.part_ids import embeddings_part_id, vocabulary_part_id
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.work_units import PlannedTrajectory, SideMeasurement, WorkUnit
from mctrace.collect.running.calibration import (
    RunChecks,
    calibrate,
    calibration_id,
    choose_estimator,
    known_calibration,
    measure_noise_floor,
)
from mctrace.collect.running.quarantine import outside_quarantine, quarantined_ids, write_quarantine
from mctrace.collect.running.run_records import new_run_id, run_row, write_run_event
from mctrace.collect.running.vocabulary_part import write_vocabulary
from mctrace.collect.running.worker import Finished, RunContext, WorkItem
from mctrace.collect.running.worker_agreement import agree_on_probe, check_earlier_runs
from mctrace.collect.running.worker_pool import Quarantined, WorkerPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.heartbeat import heartbeat
from mctrace.datasets.store.parts import Part
from mctrace.datasets.store.store import Store
from mctrace.errors import CollectError
from mctrace.progress import Progress

_COMMIT_PAUSE = 10
"""A commit waits this many times as long as the last one took, so that commits stay a tenth of the time."""
MOST_WAITING = 64
"""Parts that a driver which is killed may lose beside what its workers have in flight."""
_MOST_IN_VAIN = 3
"""Items that may be given up before any is measured; then it is the run that cannot measure."""


@dataclass(frozen=True)
class RunSummary:
    """Results of a run in counts, seconds of wall time and bytes. `predicted` is the forecast made after the
    first unit; it and `checks` are None for a run that had nothing to do."""

    num_planned: int
    run_id: str | None = None
    checks: RunChecks | None = None
    predicted: Forecast | None = None
    num_measured: int = 0
    num_quarantined: int = 0
    """items given up by this run"""
    num_in_quarantine: int = 0
    """planned items that an earlier run gave up and this one left out"""
    num_trajectories: int = 0
    num_not_finite: int = 0
    """trajectories without a finite loss"""
    num_snapshots: int = 0
    num_effects: int = 0
    num_tokens_run: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    pairs: tuple[LabelPair, ...] = ()
    """audited actions, both ways"""


def run_collection(
    store: Store,
    plan: RunPlan,
    start_workers: Callable[[RunContext], WorkerPool],
    *,
    config: CollectConfig,
    model: ModelConfig,
    gists: GistConfig,
    source: ModelSource,
    resolved_config: str,
    corpus: CorpusConfig,
    left_out: Skipped,
    progress: Progress,
    retry_quarantined: bool = False,
) -> RunSummary:
    """Measure what is missing and commit it part by part; nothing is measured twice except
    units whose document or tables the store lacks (`RunPlan.missing`). `left_out` counts documents
    that another driver's placements exclude (`placement_commits.py`).

    Before anything is measured every worker takes the same probe. Raises CollectError where they disagree
    with each other or with an earlier run of the same model.

    An item that its workers cannot measure is quarantined, and left out from then on unless
    `retry_quarantined`. What ends the run (`faults.py`), or KeyboardInterrupt, does so after its end is
    recorded; everything committed until then stays.
    """
    calibration = known_calibration(store, plan, config)
    decided = choose_estimator(plan, calibration, config.min_audit_spearman)
    quarantined = frozenset() if retry_quarantined else quarantined_ids(store)
    num_in_quarantine = len(decided.units) - len(outside_quarantine(decided.units, quarantined))
    if not outside_quarantine(decided.missing(store), quarantined):
        if num_in_quarantine < len(decided.units) and not _has_losses(store, decided):
            raise _no_losses(plan.provenance.dtype)
        return RunSummary(len(decided.units), num_in_quarantine=num_in_quarantine)
    context = RunContext(new_run_id(), store.location.uri, model, gists, plan.provenance, config.batch_tokens)
    workers = start_workers(context)
    try:
        progress.start("probing the workers", None, "")
        agreement = agree_on_probe(workers.probes(), plan.provenance.dtype)
        check_earlier_runs(store, plan.provenance, agreement)
        workers.admit_with(agreement.check)
        progress.stop()
        plan = plan.of_documents(commit_placements(store, plan.documents, corpus, context.run_id, left_out))
        decided = choose_estimator(plan, calibration, config.min_audit_spearman)
        if plan.estimator != EXACT and calibration is None:
            progress.start(f"calibrating the {plan.estimator.name} estimator", None, "actions")
            calibration = calibrate(workers, plan, progress)
            decided = choose_estimator(plan, calibration, config.min_audit_spearman)
            progress.stop()
        remaining = outside_quarantine(decided.missing(store), quarantined)
        progress.start("measuring the noise floor", None, "")
        checks = RunChecks(
            decided.estimator,
            measure_noise_floor(workers, decided, remaining),
            calibration_id(plan, config) if plan.estimator != EXACT else None,
            calibration,
            agreement,
        )
        progress.stop()
        row = run_row(context, source, resolved_config, checks)
        with heartbeat(store.location, context.run_id):
            summary = _recorded(store, decided, remaining, workers, row, checks, source, progress)
        return replace(summary, num_in_quarantine=num_in_quarantine)
    finally:
        progress.stop()
        workers.close()


def _recorded(
    store: Store,
    plan: RunPlan,
    remaining: Sequence[WorkUnit],
    workers: WorkerPool,
    row: Mapping[str, object],
    checks: RunChecks,
    source: ModelSource,
    progress: Progress,
) -> RunSummary:
    """The run between its start row and its end row."""
    summary = RunSummary(len(plan.units), str(row["run_id"]), checks)

    def record_end(outcome: str) -> None:
        agreement = compare_estimators(summary.pairs)
        store.commit([write_run_event(store.location, row, "end", outcome, agreement)])

    try:
        store.commit([write_run_event(store.location, row, "start")])
        _commit_embeddings(store, plan, workers)
        _commit_vocabulary(store, source, summary)
        for so_far in _measure(store, plan, remaining, workers, summary, source.embedding_dim, progress):
            summary = so_far
        if summary.num_not_finite == summary.num_trajectories > 0:
            raise _no_losses(plan.provenance.dtype)
    except BaseException as error:
        # The first error must be reported: a full disk takes no end row either.
        with contextlib.suppress(OSError):
            record_end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    record_end("finished")
    return summary


def _has_losses(store: Store, plan: RunPlan) -> bool:
    """True when a stored trajectory of this model, dtype and GistNet has a finite loss."""
    query = (
        "select 1 as found from stored_trajectories where model_hash = ? and gist_hash = ? and dtype = ? "
        "and baseline_status is distinct from 'not finite' limit 1"
    )
    provenance = plan.provenance
    asked = (provenance.model_hash, provenance.gist_hash, provenance.dtype)
    return bool(fetch_rows(connect(store.at()), query, *asked))


def _no_losses(dtype: str) -> CollectError:
    return CollectError(
        f"no trajectory has a finite loss in {dtype}; all are kept without effects (baseline_status 'not "
        "finite'): try model.dtype = float32, or another model"
    )


class _Commits:
    """Commit parts as they come, several at once where they come faster than commits should be made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Part] = []
        self._seconds, self._ended = 0.0, 0.0

    def add(self, parts: Sequence[Part]) -> int:
        """Takes the parts of one item; returns the bytes that were committed now."""
        self._waiting += parts
        is_due = time.perf_counter() - self._ended >= _COMMIT_PAUSE * self._seconds
        return self.flush() if is_due or len(self._waiting) >= MOST_WAITING else 0

    def flush(self) -> int:
        """Commits what waits; returns its bytes."""
        if not self._waiting:
            return 0
        started = time.perf_counter()
        new = self._store.commit(self._waiting)
        self._waiting = []
        self._ended = time.perf_counter()
        self._seconds = self._ended - started
        observe("commit_seconds", self._seconds)
        return sum(part.size for part in new)


def _commit_embeddings(store: Store, plan: RunPlan, workers: WorkerPool) -> None:
    """Once per base model."""
    if embeddings_part_id(plan.provenance) not in store.at().part_ids:
        store.commit([workers.write_embeddings()])


def _commit_vocabulary(store: Store, source: ModelSource, summary: RunSummary) -> None:
    """Once per tokenizer."""
    if vocabulary_part_id(source.tokenizer_hash) not in store.at().part_ids:
        store.commit([write_vocabulary(store.location, source, str(summary.run_id))])


def _measure(
    store: Store,
    plan: RunPlan,
    remaining: Sequence[WorkUnit],
    workers: WorkerPool,
    summary: RunSummary,
    embedding_dim: int,
    progress: Progress,
) -> Iterator[RunSummary]:
    """The summary so far, after every measured trajectory; all are committed however this ends."""
    started, run_id, commits = time.perf_counter(), str(summary.run_id), _Commits(store)
    lacking = plan.missing_documents(store)
    document_tokens = {d: plan.documents[d].num_tokens for d in lacking}
    size, batch_tokens = workers.model_size(), workers.batch_tokens()
    progress.start("measuring", size.flops(total_work(remaining, batch_tokens)) / 1e12, "TFLOP")
    try:
        measured = workers.measure(_work_items(plan, remaining, lacking, run_id))
        for finished in _after_their_trajectories(measured, store.at().part_ids):
            if isinstance(finished, Quarantined):
                num_bytes = commits.add([write_quarantine(store.location, finished, run_id)])
                summary = _with_quarantined(summary, finished, num_bytes)
                yield summary
                continue
            num_bytes = commits.add(finished.parts)
            unit = finished.item.unit
            lacking.discard(unit.document_id)
            flops = size.flops(unit.work(batch_tokens))
            if summary.predicted is None:
                rate = flops / finished.seconds
                predicted = forecast(
                    remaining, size, rate, workers.num_workers, batch_tokens, embedding_dim, document_tokens
                )
                summary = replace(summary, predicted=predicted)
            summary = _with_finished(summary, finished, num_bytes, time.perf_counter() - started)
            rate = summary.num_effects / summary.seconds
            nodes = workers.note()
            note = f"{summary.num_effects} effects, {rate:.2f}/s" + (f" ({nodes})" if nodes else "")
            progress.advance(flops / 1e12, note)
            yield summary
    finally:
        num_bytes = commits.flush()
    yield replace(summary, num_bytes=summary.num_bytes + num_bytes, seconds=time.perf_counter() - started)


def _after_their_trajectories(
    measured: Iterable[Finished | Quarantined], done: frozenset[str]
) -> Iterator[Finished | Quarantined]:
    """Side measurements held back until the trajectory they belong to is there to be committed first; those
    of a trajectory that was given up are dropped."""
    known, given_up, held = set(done), set[str](), defaultdict[str, list[Finished | Quarantined]](list)
    for outcome in measured:
        unit = outcome.item.unit
        if isinstance(unit, SideMeasurement) and unit.trajectory_id not in known:
            if unit.trajectory_id not in given_up:
                held[unit.trajectory_id].append(outcome)
            continue
        yield outcome
        beside = held.pop(unit.part_id, ())
        if isinstance(outcome, Quarantined):
            given_up.add(unit.part_id)
        else:
            known.add(unit.part_id)
            yield from beside


def _with_quarantined(summary: RunSummary, given_up: Quarantined, num_bytes: int) -> RunSummary:
    """Raises CollectError when nothing but this has come of the run."""
    num = summary.num_quarantined + 1
    if num >= _MOST_IN_VAIN and not summary.num_measured:
        raise CollectError(
            f"none of the first {num} items could be measured; of {given_up.item.document.source}: "
            f"{given_up.reason}; they are in quarantine (mctrace log), collect --retry-quarantined tries "
            "them again"
        )
    return replace(summary, num_quarantined=num, num_bytes=summary.num_bytes + num_bytes)


def _with_finished(summary: RunSummary, finished: Finished, num_bytes: int, seconds: float) -> RunSummary:
    unit = finished.item.unit
    is_trajectory = isinstance(unit, PlannedTrajectory)
    return replace(
        summary,
        num_measured=summary.num_measured + 1,
        num_trajectories=summary.num_trajectories + is_trajectory,
        num_not_finite=summary.num_not_finite + (is_trajectory and not finished.is_finite),
        num_snapshots=summary.num_snapshots + is_trajectory * len(unit.trajectory.cursors),
        num_effects=summary.num_effects + finished.num_effects,
        num_tokens_run=summary.num_tokens_run + finished.num_tokens_run,
        num_bytes=summary.num_bytes + num_bytes,
        seconds=seconds,
        pairs=summary.pairs + finished.pairs,
    )


def _work_items(
    plan: RunPlan, remaining: Sequence[WorkUnit], lacking: set[str], run_id: str
) -> Iterator[WorkItem]:
    """Items in an order of this driver's own, document by document, so that two drivers rarely collide.

    Each brings its document for as long as that is `lacking`, so that no trajectory is ever committed
    without it, whichever of its siblings is done first.
    """
    by_document: dict[str, list[WorkUnit]] = {}
    for unit in remaining:
        by_document.setdefault(unit.document_id, []).append(unit)
    order = list(by_document)
    random.Random(run_id).shuffle(order)
    for document_id in order:
        for unit in by_document[document_id]:
            yield WorkItem(plan.documents[document_id], unit, document_id in lacking)
