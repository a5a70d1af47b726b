"""Driver of a collection run: skip what the ledger lists, measure the rest, commit as results come.

The flow is one loop. Whatever stops it, the ledger lists complete parts only, and the same command resumes
from there.
"""

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.cluster.faults import patiently
from mctrace.collect.cluster.metrics import observe
from mctrace.collect.config import CollectConfig, CorpusConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.placement_commits import PlacementCommits
from mctrace.collect.measuring.estimator_agreement import LabelPairs, compare_estimators
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.forecast import Forecast, forecast, total_work
from mctrace.collect.planning.part_ids import embeddings_part_id, vocabulary_part_id
from mctrace.collect.planning.plan_stream import PlanStream
from mctrace.collect.planning.work_units import PlannedTrajectory, SideMeasurement
from mctrace.collect.running.background_compaction import BackgroundCompaction
from mctrace.collect.running.calibration import (
    RunChecks,
    calibrate,
    calibration_id,
    is_below,
    known_calibration,
    measure_noise_floor,
)
from mctrace.collect.running.pool_choice import document_stage
from mctrace.collect.running.quarantine import quarantined_ids, write_quarantine
from mctrace.collect.running.remaining_work import RemainingWork
from mctrace.collect.running.run_records import new_run_id, run_row, write_run_event
from mctrace.collect.running.vocabulary_part import write_vocabulary
from mctrace.collect.workers.worker import Finished, RunContext
from mctrace.collect.workers.worker_agreement import agree_on_probe, check_earlier_runs
from mctrace.collect.workers.worker_pool import Quarantined, WorkerPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.heartbeat import heartbeat
from mctrace.datasets.store.parts import Part
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.errors import CollectError
from mctrace.progress import Progress

_COMMIT_PAUSE = 10
"""A commit waits this many times as long as the last one took, so that commits stay a tenth of the time."""
MOST_WAITING = 64
"""Parts that a driver which is killed may lose beside what its workers have in flight, or those of one second
where they are more."""
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
    pairs: LabelPairs = field(default_factory=LabelPairs)
    """audited actions, both ways; of a finished run"""


def run_collection(
    store: Store,
    stream: PlanStream,
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
    on_planned: Callable[[RemainingWork], None] = lambda _: None,
    retry_quarantined: bool = False,
    compact_every: int = 0,
) -> RunSummary:
    """Measure what is missing of a stream of planned documents and commit it part by part.

    Nothing is measured twice except units whose document or tables the store lacks (`RemainingWork`).
    `left_out` counts documents that another driver's placements exclude (`placement_commits.py`).
    `on_planned` is called once, when the first documents are planned.

    Before anything is measured every worker takes the same probe. Raises CollectError where they disagree
    with each other or with an earlier run of the same model.

    Small parts are compacted whenever `compact_every` of them were committed; 0: never.

    An item that its workers cannot measure is quarantined, and left out from then on unless
    `retry_quarantined`. What ends the run (`faults.py`), or KeyboardInterrupt, does so after its end is
    recorded; everything committed until then stays.
    """
    calibration = known_calibration(store, stream, config)
    quarantined = frozenset() if retry_quarantined else quarantined_ids(store)
    work = RemainingWork(store, stream, quarantined)
    work.decide(is_exact=is_below(stream, calibration, config.min_audit_spearman))
    head = work.plan_head(progress)
    on_planned(work)
    if not head:
        if work.num_in_quarantine < work.num_planned and not _has_losses(store, stream.provenance):
            raise _no_losses(stream.provenance.dtype)
        return RunSummary(work.num_planned, num_in_quarantine=work.num_in_quarantine)
    context = RunContext(
        new_run_id(), store.location.uri, model, gists, stream.provenance, config.batch_tokens
    )
    workers = start_workers(context)
    try:
        stream.spread(document_stage(), workers.batch_tokens())
        progress.start("probing the workers", None, "")
        agreement = agree_on_probe(workers.probes(), stream.provenance.dtype)
        check_earlier_runs(store, stream.provenance, agreement)
        workers.admit_with(agreement.check)
        progress.stop()
        if stream.estimator != EXACT and calibration is None:
            progress.start(f"calibrating the {stream.estimator.name} estimator", None, "actions")
            calibration = calibrate(workers, work.head_plan(), config.calibration_actions, progress)
            work.decide(is_exact=is_below(stream, calibration, config.min_audit_spearman))
            progress.stop()
        progress.start("measuring the noise floor", None, "")
        checks = RunChecks(
            EXACT if work.is_exact else stream.estimator,
            measure_noise_floor(workers, work.head_plan()),
            calibration_id(stream, config) if stream.estimator != EXACT else None,
            calibration,
            agreement,
        )
        progress.stop()
        row = run_row(context, source, resolved_config, checks)
        placements = PlacementCommits(store, stream.assigner, corpus, context.run_id, left_out)
        with heartbeat(store.location, context.run_id), _libraries_kept():
            compaction = BackgroundCompaction(store, compact_every)
            try:
                summary = _recorded(
                    store, work, placements, workers, row, checks, source, compaction, progress
                )
            finally:
                compaction.close()
        return replace(summary, num_in_quarantine=work.num_in_quarantine)
    finally:
        progress.stop()
        work.close()
        workers.close()


def _recorded(
    store: Store,
    work: RemainingWork,
    placements: PlacementCommits,
    workers: WorkerPool,
    row: Mapping[str, object],
    checks: RunChecks,
    source: ModelSource,
    compaction: BackgroundCompaction,
    progress: Progress,
) -> RunSummary:
    """The run between its start row and its end row."""
    summary, pairs = RunSummary(work.num_planned, str(row["run_id"]), checks), LabelPairs()

    def record_end(outcome: str) -> None:
        agreement = compare_estimators(pairs)
        store.commit([write_run_event(store.location, row, "end", outcome, agreement)])

    try:
        store.commit([write_run_event(store.location, row, "start")])
        _commit_embeddings(store, work.stream.provenance, workers)
        _commit_vocabulary(store, source, summary)
        commits = _Commits(store, compaction)
        measured = _measure(
            store, work, placements, workers, summary, pairs, source.embedding_dim, commits, progress
        )
        for so_far in measured:
            summary = so_far
        if summary.num_not_finite == summary.num_trajectories > 0:
            raise _no_losses(work.stream.provenance.dtype)
    except BaseException as error:
        # The first error must be reported: a full disk takes no end row either.
        with contextlib.suppress(OSError):
            record_end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    record_end("finished")
    return replace(summary, pairs=pairs)


@contextlib.contextmanager
def _libraries_kept() -> Iterator[None]:
    """The garbage collector leaves alone what is there now: to look through the libraries' million objects
    again and again takes a fifth of the driver's time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _has_losses(store: Store, provenance: Provenance) -> bool:
    """True when a stored trajectory of this model, dtype and GistNet has a finite loss."""
    query = (
        "select 1 as found from stored_trajectories where model_hash = ? and gist_hash = ? and dtype = ? "
        "and baseline_status is distinct from 'not finite' limit 1"
    )
    asked = (provenance.model_hash, provenance.gist_hash, provenance.dtype)
    return bool(fetch_rows(connect(store.at()), query, *asked))


def _no_losses(dtype: str) -> CollectError:
    return CollectError(
        f"no trajectory has a finite loss in {dtype}; all are kept without effects (baseline_status 'not "
        "finite'): try model.dtype = float32, or another model"
    )


class _Commits:
    """Commit parts as they come, several at once where they come faster than commits should be made."""

    def __init__(self, store: Store, compaction: BackgroundCompaction) -> None:
        self._store, self._compaction = store, compaction
        self._waiting: list[Part] = []
        self._seconds, self._ended = 0.0, 0.0

    def add(self, parts: Sequence[Part]) -> int:
        """Takes the parts of one item; returns the bytes that were committed now."""
        self._waiting += parts
        pause = time.perf_counter() - self._ended
        is_due = pause >= _COMMIT_PAUSE * self._seconds
        is_due = is_due or (len(self._waiting) >= MOST_WAITING and pause >= 1)
        return patiently(self.flush) if is_due else 0

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
        self._compaction.committed(len(new))
        return sum(part.size for part in new)


def _commit_embeddings(store: Store, provenance: Provenance, workers: WorkerPool) -> None:
    """Once per base model."""
    if embeddings_part_id(provenance) not in store.ledger.part_ids:
        store.commit([workers.write_embeddings()])


def _commit_vocabulary(store: Store, source: ModelSource, summary: RunSummary) -> None:
    """Once per tokenizer."""
    if vocabulary_part_id(source.tokenizer_hash) not in store.ledger.part_ids:
        store.commit([write_vocabulary(store.location, source, str(summary.run_id))])


def _measure(
    store: Store,
    work: RemainingWork,
    placements: PlacementCommits,
    workers: WorkerPool,
    summary: RunSummary,
    pairs: LabelPairs,
    embedding_dim: int,
    commits: _Commits,
    progress: Progress,
) -> Iterator[RunSummary]:
    """The summary so far, after every measured trajectory; all are committed however this ends.

    Audited actions join `pairs`.
    """
    started, run_id = time.perf_counter(), str(summary.run_id)
    size, batch_tokens = workers.model_size(), workers.batch_tokens()
    known = work.head_plan() if work.is_whole else None
    total = size.flops(total_work(known.units, batch_tokens)) / 1e12 if known else None
    lacking = {d: one.num_tokens for d, one in known.documents.items() if work.lacks(one)} if known else {}
    progress.start("measuring", total, "TFLOP")
    try:
        measured = workers.measure(work.items(placements, run_id))
        for finished in _after_their_trajectories(measured, store.ledger.part_ids):
            if isinstance(finished, Quarantined):
                num_bytes = commits.add([write_quarantine(store.location, finished, run_id)])
                summary = _with_quarantined(summary, finished, num_bytes)
                yield replace(summary, num_planned=work.num_planned)
                continue
            num_bytes = commits.add(finished.parts)
            pairs.add(finished.pairs)
            flops = size.flops(finished.item.unit.work(batch_tokens))
            if known:
                rate = flops / finished.seconds
                predicted = forecast(
                    known.units, size, rate, workers.num_workers, batch_tokens, embedding_dim, lacking
                )
                summary, known = replace(summary, predicted=predicted), None
            summary = _with_finished(summary, finished, num_bytes, time.perf_counter() - started)
            rate = summary.num_effects / summary.seconds
            nodes = workers.note()
            note = f"{summary.num_effects} effects, {rate:.2f}/s" + (f" ({nodes})" if nodes else "")
            progress.advance(flops / 1e12, note)
            yield replace(summary, num_planned=work.num_planned)
        num_bytes = patiently(commits.flush)
    except BaseException:
        commits.flush()
        raise
    yield replace(
        summary,
        num_planned=work.num_planned,
        num_bytes=summary.num_bytes + num_bytes,
        seconds=time.perf_counter() - started,
    )


def _after_their_trajectories(
    measured: Iterable[Finished | Quarantined], committed: AbstractSet[str]
) -> Iterator[Finished | Quarantined]:
    """Side measurements held back until the trajectory they belong to is there to be committed first; those
    of a trajectory that was given up are dropped.

    `committed` grows with every commit; only what was given to the next one is remembered here.
    """
    waiting, given_up, most = set[str](), set[str](), 2 * MOST_WAITING
    held = defaultdict[str, list[Finished | Quarantined]](list)
    for outcome in measured:
        unit = outcome.item.unit
        if (
            isinstance(unit, SideMeasurement)
            and unit.trajectory_id not in committed
            and unit.trajectory_id not in waiting
        ):
            if unit.trajectory_id not in given_up:
                held[unit.trajectory_id].append(outcome)
            continue
        yield outcome
        beside = held.pop(unit.part_id, ())
        if isinstance(outcome, Quarantined):
            given_up.add(unit.part_id)
            continue
        waiting.add(unit.part_id)
        yield from beside
        if len(waiting) > most:
            waiting = {part_id for part_id in waiting if part_id not in committed}
            most = 2 * (len(waiting) + MOST_WAITING)


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
    )
