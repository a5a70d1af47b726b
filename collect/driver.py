"""A collection run: leave out what the ledger has, measure the rest, commit as it comes.

The flow is one loop. Whatever stops it, the ledger lists exactly what is whole, and the same command goes on
from there.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mctrace.collect.config import GistConfig, ModelConfig
from mctrace.collect.forecast import Forecast, forecast, total_work
from mctrace.collect.measuring import RunContext, WorkItem, embeddings_part_id
from mctrace.collect.model_source import ModelSource
from mctrace.collect.plan import PlannedTrajectory
from mctrace.collect.run_plan import RunPlan
from mctrace.collect.run_records import new_run_id, run_row, write_run_event
from mctrace.collect.workers import Workers
from mctrace.context.progress import Progress
from mctrace.datasets.store import Store


@dataclass(frozen=True)
class RunSummary:
    """What a run did, in counts, seconds of wall time and bytes. `predicted` was said after the first
    trajectory came in; both are None for a run that had nothing to do."""

    num_planned: int
    run_id: str | None = None
    predicted: Forecast | None = None
    num_measured: int = 0
    num_snapshots: int = 0
    num_effects: int = 0
    num_tokens_run: int = 0
    num_bytes: int = 0
    seconds: float = 0.0


def run_collection(
    store: Store,
    plan: RunPlan,
    start_workers: Callable[[RunContext], Workers],
    *,
    model: ModelConfig,
    gists: GistConfig,
    source: ModelSource,
    resolved_config: str,
    progress: Progress,
) -> RunSummary:
    """Measures what is missing and commits it part by part; measures nothing twice.

    An exception from a worker, or KeyboardInterrupt, ends the run after its end is recorded; everything
    committed until then stays.
    """
    remaining = plan.missing(store)
    if not remaining:
        return RunSummary(len(plan.trajectories))
    context = RunContext(new_run_id(), store.location.uri, model, gists, plan.provenance)
    row, outcome = run_row(context, source, resolved_config), "failed"
    workers = start_workers(context)
    try:
        store.commit([write_run_event(store.location, row, "start")])
        _commit_embeddings(store, context, workers)
        summary = _measure(store, plan, remaining, workers, context.run_id, source.embedding_dim, progress)
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        progress.stop()
        workers.close()
        store.commit([write_run_event(store.location, row, "end", outcome)])
    return summary


def _commit_embeddings(store: Store, context: RunContext, workers: Workers) -> None:
    """Once per base model."""
    if embeddings_part_id(context.provenance) not in store.at().part_ids:
        store.commit([workers.write_embeddings()])


def _measure(
    store: Store,
    plan: RunPlan,
    remaining: Sequence[PlannedTrajectory],
    workers: Workers,
    run_id: str,
    embedding_dim: int,
    progress: Progress,
) -> RunSummary:
    summary, started = RunSummary(len(plan.trajectories), run_id), time.perf_counter()
    lacking = plan.missing_documents(store)
    document_tokens = {d: plan.documents[d].num_tokens for d in lacking}
    size = workers.model_size()
    progress.start("measuring", size.flops(total_work(remaining)) / 1e12, "TFLOP")
    for finished in workers.measure(_work_items(plan, remaining, lacking, run_id)):
        new = store.commit(finished.parts)
        planned = finished.item.planned
        lacking.discard(planned.document_id)
        flops = size.flops(planned.work)
        if summary.predicted is None:
            rate = flops / finished.seconds
            predicted = forecast(remaining, size, rate, workers.num_workers, embedding_dim, document_tokens)
            summary = replace(summary, predicted=predicted)
        summary = replace(
            summary,
            num_measured=summary.num_measured + 1,
            num_snapshots=summary.num_snapshots + len(planned.trajectory.cursors),
            num_effects=summary.num_effects + finished.num_effects,
            num_tokens_run=summary.num_tokens_run + planned.work.num_recomputed,
            num_bytes=summary.num_bytes + sum(part.size for part in new),
            seconds=time.perf_counter() - started,
        )
        rate = summary.num_effects / summary.seconds
        progress.advance(flops / 1e12, f"{summary.num_effects} effects, {rate:.2f}/s")
    return summary


def _work_items(
    plan: RunPlan, remaining: Sequence[PlannedTrajectory], lacking: set[str], run_id: str
) -> Iterator[WorkItem]:
    """Items in an order of this driver's own, document by document, so that two drivers rarely collide.

    Each brings its document for as long as that is `lacking`, so that no trajectory is ever committed
    without it, whichever of its siblings is done first.
    """
    by_document: dict[str, list[PlannedTrajectory]] = {}
    for planned in remaining:
        by_document.setdefault(planned.document_id, []).append(planned)
    order = list(by_document)
    random.Random(run_id).shuffle(order)
    for document_id in order:
        for planned in by_document[document_id]:
            yield WorkItem(plan.documents[document_id], planned, document_id in lacking)
