"""`mctrace plan` and `mctrace collect`: from a configuration to a plan, and from a plan to a fuller store."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mctrace.base_model.loading import resolve_device
from mctrace.base_model.model_source import ModelSource
from mctrace.cli.config import PipelineConfig
from mctrace.cli.progress import make_progress
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import Document, read_documents
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.splits import SplitAssigner
from mctrace.collect.measuring.bring_up import bring_up, resolve_evaluable_model
from mctrace.collect.measuring.estimator_agreement import EstimatorAgreement, compare_estimators
from mctrace.collect.planning.document_plan import MapMaker
from mctrace.collect.planning.forecast import Forecast, forecast, total_work
from mctrace.collect.planning.lensnet_policy import OnPolicyConfig, OnPolicyMaps, load_scorer
from mctrace.collect.planning.run_plan import RunPlan, check_fits, make_plan, provenance_of
from mctrace.collect.planning.trace_files import TracePlan, plan_traces
from mctrace.collect.running.calibration import calibration_work, choose_estimator, known_calibration
from mctrace.collect.running.driver import RunSummary, run_collection
from mctrace.collect.running.worker import RunContext, Worker, WorkItem
from mctrace.collect.running.worker_pool import InProcessPool, WorkerPool
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store, create_store, find_store
from mctrace.errors import InputError
from mctrace.progress import Progress


@dataclass(frozen=True)
class PlannedRun:
    """A run before anything is measured. `decided` is what an earlier calibration makes of `plan`: the same
    where there was none."""

    source: ModelSource
    plan: RunPlan
    decided: RunPlan
    calibration: EstimatorAgreement | None
    left_out: Skipped


def collect_run(config: PipelineConfig, traces: Path | None, *, use_ray: bool, console: Console) -> None:
    """Plans, measures what the ledger does not list, and says what was done."""
    progress = make_progress(console)
    planned = _plan(config, traces, find_store(config.store.uri), console, progress)
    store = create_store(config.store.uri)
    start = partial(_start_workers, config, use_ray)
    try:
        summary = run_collection(
            store,
            planned.plan,
            start,
            config=config.collect,
            model=config.model,
            gists=config.gists,
            source=planned.source,
            resolved_config=config.to_json(),
            corpus=config.corpus,
            left_out=planned.left_out,
            progress=progress,
        )
    except KeyboardInterrupt:
        _, decided = _decide(planned.plan, config, store)
        console.print(
            f"Interrupted with {decided.num_done(store)} of {len(decided.units)} "
            "trajectories committed; the same command measures the rest.",
            highlight=False,
        )
        raise
    if summary.run_id is None:
        _check_where(config, use_ray)
    _print_summary(summary, store.at().version, config.collect.min_audit_spearman, console)
    print_left_out(planned.left_out, console)


def plan_run(config: PipelineConfig, traces: Path | None, console: Console) -> None:
    """Measures one typical trajectory without keeping it and predicts the whole run."""
    store = find_store(config.store.uri)
    planned = _plan(config, traces, store, console, make_progress(console))
    print_left_out(planned.left_out, console)
    plan = planned.decided
    remaining = plan.missing(store)
    if not remaining:
        console.print("Nothing to measure: every planned trajectory is in the store.")
        return
    context = RunContext(
        "plan",
        config.store.uri,
        config.model,
        config.gists,
        planned.plan.provenance,
        config.collect.batch_tokens,
    )
    worker = Worker(context, num_threads=max(1, int(config.ray.num_cpus)))
    size, batch_tokens = worker.model_size(), worker.batch_tokens()
    typical = sorted(remaining, key=lambda p: size.flops(p.work(batch_tokens)))[len(remaining) // 2]
    item = WorkItem(plan.documents[typical.document_id], typical, purpose="compare")
    rate = size.flops(typical.work(batch_tokens)) / worker.measure(item).seconds
    documents = {d: plan.documents[d].num_tokens for d in plan.missing_documents(store)}
    prediction = forecast(
        remaining, size, rate, config.ray.actors, batch_tokens, planned.source.embedding_dim, documents
    )
    _print_forecast(prediction, rate, config.ray.actors, console)
    if plan.is_windowed and planned.calibration is None:
        before = size.flops(calibration_work(plan, batch_tokens)) / 1e12
        otherwise = size.flops(total_work(plan.exactly().missing(store), batch_tokens)) / 1e12
        console.print(
            f"Before that, {before:,.1f} TFLOP of calibration; if it falls below collect.min_audit_spearman, "
            f"the run is exact: {otherwise:,.1f} TFLOP",
            highlight=False,
        )


def _plan(
    config: PipelineConfig, traces: Path | None, store: Store | None, console: Console, progress: Progress
) -> PlannedRun:
    source = resolve_evaluable_model(config.model)
    provenance = provenance_of(source, config.model, config.gists, config.tree)
    skipped = Skipped(config.corpus.strict)
    if traces is not None:
        found = plan_traces(traces, store, config.collect, config.corpus, provenance, source)
        _report_rejected(traces, found, console)
        plan = found.plan
    else:
        documents = read_run_documents(config, store, source, skipped, progress)
        plan = make_plan(documents, config.collect, provenance, _lensnet_maps(config, source, provenance))
    check_fits(plan, source)
    calibration, decided = _decide(plan, config, store)
    if plan.is_windowed and not decided.is_windowed:
        console.print("Measured exactly: an earlier calibration was below collect.min_audit_spearman.")
    done = decided.num_done(store)
    num_beside = len(plan.units) - plan.num_trajectories
    console.print(
        f"Plan: {plan.num_trajectories} trajectories of {len(plan.documents)} documents"
        + (f" and {num_beside} side measurements" if num_beside else "")
        + (f", {done} of them in the store already" if done else "")
        + (f"; {plan.num_too_short} documents too short for a snapshot" if plan.num_too_short else "")
    )
    return PlannedRun(source, plan, decided, calibration, skipped)


def _lensnet_maps(config: PipelineConfig, source: ModelSource, provenance: Provenance) -> MapMaker | None:
    """Who makes the maps of the policy `lensnet`, where it is asked for: it needs the documents' embeddings,
    so the planner holds the base model too."""
    collect = config.collect
    if "lensnet" not in collect.policies:
        return None
    scorer = load_scorer(Path(collect.lensnet_checkpoint), provenance, balances=collect.lensnet_rebalance)
    loaded = bring_up(source, config.model, config.gists, provenance)
    on_policy = OnPolicyConfig(
        collect.train_wc_length,
        collect.protected_tail,
        collect.lensnet_refocuses,
        replace(config.allocator, temperature=collect.lensnet_temperature),
    )
    return OnPolicyMaps(scorer, loaded.model, loaded.gistnet, on_policy)


def _decide(
    plan: RunPlan, config: PipelineConfig, store: Store | None
) -> tuple[EstimatorAgreement | None, RunPlan]:
    """What is known of the windowed estimator, and the plan that follows from it."""
    calibration = known_calibration(store, plan, config.collect)
    return calibration, choose_estimator(plan, calibration, config.collect.min_audit_spearman)


def _report_rejected(traces: Path, found: TracePlan, console: Console) -> None:
    """Says which rows were left out, and lists all of them beside the trace file."""
    if not found.rejected:
        return
    side_file = traces.with_name(f"{traces.name}.rejected.jsonl")
    found.write_rejected(side_file)
    first = found.rejected[0]
    what = f"{len(found.rejected)} of {found.num_rows} rows of {traces} rejected, see {side_file}"
    if not found.plan.units:
        raise InputError(f"{what}; row {first.row}: {first.reason}")
    console.print(f"{what} (row {first.row}: {first.reason})", markup=False, highlight=False)


def read_run_documents(
    config: PipelineConfig, store: Store | None, source: ModelSource, skipped: Skipped, progress: Progress
) -> list[Document]:
    """The configured corpus, split as `store` already splits it; `skipped` hears what was left out."""
    assigner = SplitAssigner(config.corpus, known_placements(store))
    tokenizer = source.load_tokenizer()
    texts = read_corpus(config.corpus.paths, skipped)
    documents: list[Document] = []
    progress.start("reading documents", config.corpus.limit, "documents")
    try:
        for document in read_documents(
            texts, tokenizer, source.tokenizer_hash, config.corpus, assigner, skipped
        ):
            documents.append(document)
            progress.advance(1)
    finally:
        progress.stop()
    return documents


def print_left_out(skipped: Skipped, console: Console) -> None:
    """One line: how many files, lines and documents are no part of the run, and why."""
    if skipped:
        total = skipped.counts.total()
        console.print(f"{total} left out of the corpus: {skipped}", markup=False, highlight=False)


def _check_where(config: PipelineConfig, use_ray: bool) -> None:
    """Raises what workers would where there were something to measure: no such device, no such cluster."""
    device = None if config.model.device_map else config.model.device
    if use_ray and config.ray.address != "local":
        from mctrace.collect.running.ray_pool import check_cluster

        check_cluster(config.ray, config.store.uri, device)
    elif device is not None:
        resolve_device(device)


def _start_workers(config: PipelineConfig, use_ray: bool, context: RunContext) -> WorkerPool:
    if not use_ray:
        return InProcessPool(context)
    from mctrace.collect.running.ray_pool import RayPool

    return RayPool(context, config.ray)


def _print_forecast(prediction: Forecast, rate: float, num_workers: int, console: Console) -> None:
    console.print(
        f"{prediction.num_trajectories} trajectories, {prediction.num_snapshots} snapshots, "
        f"{prediction.num_effects} effects\n"
        f"{prediction.work.num_recomputed:,} tokens through the layers, "
        f"{prediction.work.num_read:,} through the head, {prediction.flops / 1e12:,.1f} TFLOP\n"
        f"{rate / 1e9:.1f} GFLOP/s measured on one trajectory: {_duration(prediction.seconds)} "
        f"on {num_workers} worker(s), {prediction.num_bytes / 1e9:.3f} GB in the store",
        highlight=False,
    )


def _print_summary(summary: RunSummary, version: int, min_spearman: float, console: Console) -> None:
    if summary.run_id is None:
        console.print(
            f"Nothing to measure: all {summary.num_planned} planned trajectories are in the store "
            f"(version {version})."
        )
        return
    console.print(
        f"Run {summary.run_id}: {summary.num_snapshots} snapshots, {summary.num_effects} effects, "
        f"{summary.num_tokens_run:,} tokens in {_duration(summary.seconds)} "
        f"({summary.num_effects / summary.seconds:.2f} effects/s), "
        f"{summary.num_bytes / 1e6:.1f} MB; the store is at version {version}",
        highlight=False,
    )
    _print_checks(summary, min_spearman, console)
    if summary.predicted:
        predicted = summary.predicted
        console.print(
            f"Predicted after the first trajectory: {_duration(predicted.seconds)} "
            f"(off by {predicted.seconds / summary.seconds - 1:+.0%}), {predicted.num_bytes / 1e6:.1f} MB "
            f"(off by {predicted.num_bytes / max(1, summary.num_bytes) - 1:+.0%})",
            highlight=False,
        )


def _print_checks(summary: RunSummary, min_spearman: float, console: Console) -> None:
    checks = summary.checks
    if summary.num_not_finite:
        console.print(
            f"{summary.num_not_finite} trajectories have no finite loss in this dtype and are kept without "
            "effects (baseline_status 'not finite'): try model.dtype = float32",
            highlight=False,
        )
    if checks and checks.calibration:
        spearman = checks.calibration.spearman
        found = "no rank correlation" if spearman is None else f"rank correlation {spearman:.3f}"
        console.print(
            f"Calibration on {checks.calibration.num_actions} actions: {found} with exact labels; measured "
            + ("windowed" if checks.estimator == "windowed" else "exactly instead"),
            highlight=False,
        )
    if summary.pairs:
        audit = compare_estimators(summary.pairs)
        too_low = ", below collect.min_audit_spearman: the calibration was too kind, prefer exact labels"
        if audit.spearman is not None:
            console.print(
                f"Audit on {audit.num_actions} actions: rank correlation {audit.spearman:.3f}"
                + (too_low if audit.spearman < min_spearman else ""),
                highlight=False,
            )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
