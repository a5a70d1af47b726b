"""A collection run: plan, leave out what the ledger has, measure the rest, commit as it comes.

The flow is one loop. Whatever stops it, the ledger lists exactly what is whole, and the same command goes on
from there.
"""

import hashlib
import json
import platform
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from mctrace.collect.config import CollectConfig, GistConfig, ModelConfig
from mctrace.collect.documents import Document, Placement
from mctrace.collect.forecast import Forecast, forecast
from mctrace.collect.measuring import (
    Finished,
    RunContext,
    WorkItem,
    document_part_id,
    embeddings_part_id,
)
from mctrace.collect.model_source import ModelSource
from mctrace.collect.passes import Work
from mctrace.collect.plan import PlannedTrajectory, Provenance, plan_document
from mctrace.collect.workers import Workers
from mctrace.context.errors import InputError
from mctrace.context.progress import Progress
from mctrace.context.tree import TreeShape
from mctrace.datasets.parts import Part, write_part
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import Store
from mctrace.gists.loading import load_gistnet


@dataclass(frozen=True)
class Plan:
    """Everything a run would measure, and the documents it needs for that."""

    documents: dict[str, Document]
    trajectories: tuple[PlannedTrajectory, ...]
    provenance: Provenance
    num_too_short: int


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `predicted_seconds` was said after the first trajectory, for the rest."""

    run_id: str | None
    num_planned: int
    num_measured: int
    num_snapshots: int
    num_effects: int
    num_tokens_run: int
    seconds: float
    predicted_seconds: float | None
    predicted_bytes: int | None
    num_bytes: int
    version: int


def provenance_of(source: ModelSource, model: ModelConfig, gists: GistConfig, tree: TreeShape) -> Provenance:
    """Hashes of everything labels depend on. Raises ModelError when model and gists do not fit."""
    gistnet = load_gistnet(gists.source)
    gistnet.check_fits(tree.block_size, source.embedding_dim)
    return Provenance(source.model_hash, source.tokenizer_hash, gistnet.content_hash, model.dtype, tree)


def known_placements(store: Store | None) -> dict[str, Placement]:
    """Splits and signatures of the documents the store already holds."""
    rows = (
        fetch_rows(
            connect(store.at()), "select document_id, split_group, split, minhash from stored_documents"
        )
        if store
        else []
    )
    return {
        row["document_id"]: Placement(
            row["split_group"], row["split"], np.asarray(row["minhash"], dtype=np.uint32)
        )
        for row in rows
    }


def make_plan(documents: Sequence[Document], config: CollectConfig, provenance: Provenance) -> Plan:
    """The trajectories of every document. Raises InputError when none is long enough for a snapshot."""
    planned = {d.document_id: tuple(plan_document(d, config, provenance)) for d in documents}
    too_short = [d for d in documents if not planned[d.document_id]]
    if len(too_short) == len(documents):
        longest = max(documents, key=lambda d: d.num_tokens)
        raise InputError(
            f"no document is long enough for a snapshot: the longest, {longest.source}, has "
            f"{longest.num_tokens} tokens; lower collect.horizon, collect.cursors_per_trajectory or "
            "collect.protected_tail, or give longer documents"
        )
    return Plan(
        {d.document_id: d for d in documents},
        tuple(trajectory for trajectories in planned.values() for trajectory in trajectories),
        provenance,
        len(too_short),
    )


def missing(plan: Plan, store: Store | None) -> list[PlannedTrajectory]:
    """Planned trajectories the ledger does not list; all of them where there is no store yet."""
    done = store.at().part_ids if store else frozenset()
    return [planned for planned in plan.trajectories if planned.part_id not in done]


def run_collection(
    store: Store,
    plan: Plan,
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
    remaining = missing(plan, store)
    if not remaining:
        return RunSummary(None, len(plan.trajectories), 0, 0, 0, 0, 0.0, None, None, 0, store.at().version)
    context = RunContext(_new_run_id(), store.location.uri, model, gists, plan.provenance)
    run_row = _run_row(context, source, resolved_config)
    tally = _Tally(context.run_id, len(plan.trajectories), source.embedding_dim)
    outcome = "failed"
    workers = start_workers(context)
    try:
        _commit_start(store, context, workers, run_row)
        progress.start("measuring", workers.model_size().flops(_total_work(remaining)) / 1e12, "TFLOP")
        for finished in workers.measure(_work_items(store, plan, remaining, context.run_id)):
            new = store.commit(finished.parts)
            done = tally.add(finished, new, workers, remaining)
            progress.advance(done / 1e12, tally.note())
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        progress.stop()
        workers.close()
        store.commit([_run_part(store, context.run_id, "end", {**run_row, "outcome": outcome})])
    return tally.summary(store.at().version)


def _work_items(
    store: Store, plan: Plan, remaining: Sequence[PlannedTrajectory], run_id: str
) -> Iterator[WorkItem]:
    """Items in an order of this driver's own, document by document, so that two drivers rarely collide."""
    by_document: dict[str, list[PlannedTrajectory]] = {}
    for planned in remaining:
        by_document.setdefault(planned.document_id, []).append(planned)
    order = list(by_document)
    random.Random(run_id).shuffle(order)
    known = store.at().part_ids
    for document_id in order:
        needs_document = document_part_id(document_id, plan.provenance) not in known
        for planned in by_document[document_id]:
            yield WorkItem(plan.documents[document_id], planned, needs_document)
            needs_document = False


@dataclass
class _Tally:
    """Counts as parts come in, and the forecast made from the first of them."""

    run_id: str
    num_planned: int
    embedding_dim: int
    num_measured: int = 0
    num_snapshots: int = 0
    num_effects: int = 0
    num_tokens_run: int = 0
    num_bytes: int = 0
    started: float = 0.0
    forecast: Forecast | None = None

    def add(
        self,
        finished: Finished,
        new: Sequence[Part],
        workers: Workers,
        remaining: Sequence[PlannedTrajectory],
    ) -> float:
        """Counts a finished item and returns its FLOPs."""
        planned, size = finished.item.planned, workers.model_size()
        flops = size.flops(planned.work)
        if self.forecast is None:
            self.started = time.perf_counter() - finished.seconds
            rate = flops / finished.seconds
            self.forecast = forecast(remaining, size, rate, workers.num_workers, self.embedding_dim)
        self.num_measured += 1
        self.num_snapshots += len(planned.trajectory.cursors)
        self.num_effects += finished.num_effects
        self.num_tokens_run += planned.work.num_recomputed
        self.num_bytes += sum(part.size for part in new)
        return flops

    def note(self) -> str:
        rate = self.num_effects / max(1e-9, time.perf_counter() - self.started)
        return f"{self.num_effects} effects, {rate:.2f}/s"

    def summary(self, version: int) -> RunSummary:
        return RunSummary(
            self.run_id,
            self.num_planned,
            self.num_measured,
            self.num_snapshots,
            self.num_effects,
            self.num_tokens_run,
            time.perf_counter() - self.started,
            self.forecast.seconds if self.forecast else None,
            self.forecast.num_bytes if self.forecast else None,
            self.num_bytes,
            version,
        )


def _commit_start(store: Store, context: RunContext, workers: Workers, run_row: dict[str, object]) -> None:
    """The run's first row and, once per base model, its embedding table."""
    parts = [_run_part(store, context.run_id, "start", run_row)]
    if embeddings_part_id(context.provenance.model_hash) not in store.at().part_ids:
        parts.append(workers.write_embeddings())
    store.commit(parts)


def _run_row(context: RunContext, source: ModelSource, resolved_config: str) -> dict[str, object]:
    return {
        "run_id": context.run_id,
        "model_name": source.name,
        "model_revision": source.revision,
        "model_hash": context.provenance.model_hash,
        "tokenizer_hash": context.provenance.tokenizer_hash,
        "gist_source": context.gists.source,
        "gist_hash": context.provenance.gist_hash,
        "dtype": context.provenance.dtype,
        "estimator": "exact",
        "config": resolved_config,
        "software": json.dumps(_software()),
    }


def _run_part(store: Store, run_id: str, event: str, row: dict[str, object]) -> Part:
    part_id = hashlib.sha256(f"run {run_id} {event}".encode()).hexdigest()[:40]
    row = {**row, "event": event, "recorded_at": datetime.now(UTC)}
    return write_part(store.location, part_id=part_id, kind="run", run_id=run_id, tables={"runs": [row]})


def _software() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("mctrace", "torch", "transformers", "ray", "deltalake", "zarr", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _new_run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _total_work(plan: Sequence[PlannedTrajectory]) -> Work:
    return sum((planned.work for planned in plan), start=Work())
