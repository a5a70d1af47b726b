"""Preparation of a collection run: base model resolved, documents read, trajectories planned and checked.

`mctrace plan` and `mctrace collect` begin with the same stream, which measures and writes nothing; a forecast
takes a sample of it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mctrace.base_model.model_source import ModelSource, resolve_model
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import DocumentMaker, in_seeded_order
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.row_files import Columns
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.measuring.bring_up import bring_up, resolve_evaluable_model
from mctrace.collect.measuring.estimator_agreement import EstimatorAgreement
from mctrace.collect.planning.document_plan import MapMaker
from mctrace.collect.planning.lensnet_policy import OnPolicyConfig, OnPolicyMaps, load_scorer
from mctrace.collect.planning.model_limits import ModelLimits
from mctrace.collect.planning.plan_stream import (
    CorpusStream,
    DocumentPlanner,
    PlanInMemory,
    PlannedDocument,
    PlanStream,
)
from mctrace.collect.planning.run_plan import RunPlan, check_anchored, check_fits, provenance_of
from mctrace.collect.planning.trace_files import TracePlan, plan_traces
from mctrace.collect.run_settings import RunSettings
from mctrace.collect.running.calibration import choose_estimator, known_calibration
from mctrace.collect.running.document_thread import DocumentThread
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.progress import Progress

MOST_SAMPLED = 256
"""Documents from which a whole corpus is forecast."""
MOST_SECONDS = 60.0
"""Seconds after which a forecast makes do with the documents that are planned."""


@dataclass(frozen=True)
class PreparedRun:
    """A run of which nothing is measured yet: planned as far as a forecast needs it."""

    source: ModelSource
    plan: RunPlan
    """as configured: of all documents, or of a sample of them"""
    decided: RunPlan
    """as measured: exact where an earlier calibration of the windowed estimator failed, else `plan`"""
    calibration: EstimatorAgreement | None
    """of the windowed estimator, from an earlier run; None where there was none"""
    left_out: Skipped
    """files, lines and documents of the corpus that are no part of the run, as far as they were looked at"""
    share: float
    """of the corpus that was planned, about; 1 where all of it was"""
    window: int | None
    """`collect.window`, where the configured one was wider than the base model allows"""


def prepare_run(
    settings: RunSettings,
    traces: Path | None,
    store: Store | None,
    progress: Progress,
    on_traces: Callable[[Path, TracePlan], None],
    *,
    needs_weights: bool = True,
) -> PreparedRun:
    """Plan enough of a run for a forecast: a sample of its documents, or all where the store has some of it.

    A window too wide for the base model is made as wide as fits. Raises what `prepare_stream` raises.
    """
    fitted, window = settings, None
    if traces is None:
        source = resolve_model(settings.model.name, settings.model.revision)
        fitted, window = _with_fitting_window(settings, source)
    prepared = prepare_stream(fitted, traces, store, progress, on_traces, needs_weights=needs_weights)
    plan, share = _planned(prepared.stream, store, progress)
    calibration = known_calibration(store, plan, settings.collect)
    decided = choose_estimator(plan, calibration, settings.collect.min_audit_spearman)
    return PreparedRun(prepared.source, plan, decided, calibration, prepared.left_out, share, window)


def _planned(stream: PlanStream, store: Store | None, progress: Progress) -> tuple[RunPlan, float]:
    """The first documents of a stream, which come in random order, and their share of it; all where the store
    has some of them."""
    known = store.at().part_ids if store else frozenset()
    found, is_sample, share, started = list[PlannedDocument](), True, 1.0, time.perf_counter()
    planned = iter(stream)
    progress.start("planning a sample of the documents", None, "documents")
    try:
        for one in planned:
            found.append(one)
            progress.advance(1)
            is_sample = is_sample and not any(unit.part_id in known for unit in one.units)
            seconds = time.perf_counter() - started
            if is_sample and (len(found) >= MOST_SAMPLED or seconds > MOST_SECONDS):
                share = min(1.0, stream.share_planned)
                break
    finally:
        planned.close()
        progress.stop()
    plan = RunPlan(
        {one.document.document_id: one.document for one in found},
        tuple(unit for one in found for unit in one.units),
        stream.provenance,
        stream.lensnet_identity,
    )
    return plan, share


def _with_fitting_window(settings: RunSettings, source: ModelSource) -> tuple[RunSettings, int | None]:
    collect, block = settings.collect, settings.tree.block_size
    ahead = (collect.cursors_per_trajectory - 1) * collect.cursor_stride + collect.horizon
    most = (source.max_positions - ahead) // block * block
    if collect.window <= most or most < block:
        return settings, None
    lod0_window = min(collect.lod0_window, most)
    return replace(settings, collect=replace(collect, window=most, lod0_window=lod0_window)), most


@dataclass(frozen=True)
class PreparedStream:
    """A run that is planned as it goes."""

    source: ModelSource
    stream: PlanStream
    left_out: Skipped
    """files, lines and documents of the corpus that are no part of the run; grows with the stream"""


def prepare_stream(
    settings: RunSettings,
    traces: Path | None,
    store: Store | None,
    progress: Progress,
    on_traces: Callable[[Path, TracePlan], None],
    *,
    needs_weights: bool = True,
) -> PreparedStream:
    """The stream of a corpus, or of the trace file `traces`; `on_traces` receives the file with its plan.

    Without weights it is good for counting only: its ids are of no run.
    Raises InputError, ModelError and ConfigError for what cannot be measured, as far as it shows in the first
    documents.
    """
    source = resolve_evaluable_model(settings.model)
    provenance = provenance_of(
        source, settings.model, settings.gists, settings.tree, needs_weights=needs_weights
    )
    check_anchored(provenance, settings.gists, settings.collect)
    skipped = Skipped(settings.corpus.strict)
    if traces is not None:
        found = plan_traces(traces, store, settings.collect, settings.corpus, provenance, source)
        on_traces(traces, found)
        check_fits(found.plan, source)
        assigner = SplitAssigner(settings.corpus, known_placements(store))
        return PreparedStream(source, PlanInMemory(found.plan, assigner), skipped)
    texts = in_seeded_order(
        read_corpus(settings.corpus.paths, skipped, Columns.of(settings.corpus)), settings.corpus.seed
    )
    planner = DocumentPlanner(
        DocumentMaker(source.load_tokenizer(), source.tokenizer_hash, settings.corpus),
        settings.collect,
        provenance,
        ModelLimits.of(source),
    )
    lensnet = _lensnet_maps(settings, source, provenance)
    assigner = SplitAssigner(settings.corpus, known_placements(store))
    stream = CorpusStream(texts, planner, assigner, skipped, DocumentThread(), lensnet)
    stream.plan_first(progress)
    return PreparedStream(source, stream, skipped)


def _lensnet_maps(settings: RunSettings, source: ModelSource, provenance: Provenance) -> MapMaker | None:
    """Maker of the maps of the policy `lensnet`; None where that policy is not configured.

    It needs the documents' embeddings, so the planner loads the base model too.
    """
    collect = settings.collect
    if "lensnet" not in collect.policies:
        return None
    scorer = load_scorer(Path(collect.lensnet_checkpoint), provenance, balances=collect.lensnet_rebalance)
    loaded = bring_up(source, settings.model, settings.gists, provenance)
    on_policy = OnPolicyConfig(
        collect.train_wc_length,
        collect.protected_tail,
        collect.lensnet_refocuses,
        replace(settings.allocator, temperature=collect.lensnet_temperature),
    )
    return OnPolicyMaps(scorer, loaded.model, loaded.gistnet, on_policy)
