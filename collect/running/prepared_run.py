"""Preparation of a collection run: base model resolved, documents read, trajectories planned and checked.

`mctrace plan` and `mctrace collect` begin with the same preparation, which measures and writes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CollectConfig
from mctrace.collect.corpus.configured_corpus import read_configured_corpus
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
    PlanStream,
)
from mctrace.collect.planning.run_plan import RunPlan, check_fits, make_plan, provenance_of
from mctrace.collect.planning.trace_files import TracePlan, plan_traces
from mctrace.collect.run_settings import RunSettings
from mctrace.collect.running.calibration import choose_estimator, known_calibration
from mctrace.collect.running.document_thread import DocumentThread
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.progress import Progress


@dataclass(frozen=True)
class PreparedRun:
    """A planned run of which nothing is measured yet."""

    source: ModelSource
    plan: RunPlan
    """as configured"""
    decided: RunPlan
    """as measured: exact where an earlier calibration of the windowed estimator failed, else `plan`"""
    calibration: EstimatorAgreement | None
    """of the windowed estimator, from an earlier run; None where there was none"""
    left_out: Skipped
    """files, lines and documents of the corpus that are no part of the run"""


def prepare_run(
    settings: RunSettings,
    traces: Path | None,
    store: Store | None,
    progress: Progress,
    on_traces: Callable[[Path, TracePlan], None],
) -> PreparedRun:
    """Plan the trajectories of the corpus, or of the trace file `traces`; `on_traces` receives
    the file with its plan.

    Raises InputError, ModelError and ConfigError for what cannot be measured, before any work is done.
    """
    source = resolve_evaluable_model(settings.model)
    provenance = provenance_of(source, settings.model, settings.gists, settings.tree)
    skipped = Skipped(settings.corpus.strict)
    if traces is not None:
        found = plan_traces(traces, store, settings.collect, settings.corpus, provenance, source)
        on_traces(traces, found)
        plan = found.plan
    else:
        documents = read_configured_corpus(source, settings.corpus, store, skipped, progress)
        plan = make_plan(documents, settings.collect, provenance, _lensnet_maps(settings, source, provenance))
    check_fits(plan, source)
    calibration, decided = decided_plan(plan, settings.collect, store)
    return PreparedRun(source, plan, decided, calibration, skipped)


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
) -> PreparedStream:
    """The stream of a corpus, or of the trace file `traces`; `on_traces` receives the file with its plan.

    Raises InputError, ModelError and ConfigError for what cannot be measured, as far as it shows in the first
    documents.
    """
    source = resolve_evaluable_model(settings.model)
    provenance = provenance_of(source, settings.model, settings.gists, settings.tree)
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


def decided_plan(
    plan: RunPlan, config: CollectConfig, store: Store | None
) -> tuple[EstimatorAgreement | None, RunPlan]:
    """The windowed estimator's calibration that `store` holds, and the plan that follows from it."""
    calibration = known_calibration(store, plan, config)
    return calibration, choose_estimator(plan, calibration, config.min_audit_spearman)


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
