"""Plans, forecasts and results of collection runs in a terminal."""

from pathlib import Path

from rich.console import Console

from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.measuring.estimator_agreement import compare_estimators
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.hardware import Hardware
from mctrace.collect.planning.time_limit import WithinHours
from mctrace.collect.planning.trace_files import TracePlan
from mctrace.collect.running.driver import RunSummary
from mctrace.collect.running.prepared_run import PreparedRun
from mctrace.collect.running.remaining_work import RemainingWork
from mctrace.collect.running.timed_forecast import TimedForecast
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError


def report_rejected(traces: Path, found: TracePlan, console: Console) -> None:
    """Print how many rows of a trace file were rejected, and list all of them beside it.

    Raises InputError when no row was accepted, or the list cannot be written.
    """
    if not found.rejected:
        return
    side_file = traces.with_name(f"{traces.name}.rejected.jsonl")
    found.write_rejected(side_file)
    first = found.rejected[0]
    what = f"{len(found.rejected)} of {found.num_rows} rows of {traces} rejected, see {side_file}"
    if not found.plan.units:
        raise InputError(f"{what}; row {first.row}: {first.reason}")
    console.print(f"{what} (row {first.row}: {first.reason})", markup=False, highlight=False)


def print_plan(prepared: PreparedRun, store: Store | None, console: Console) -> None:
    """Print how much is planned, and how much of that the store has."""
    plan, decided = prepared.plan, prepared.decided
    if plan.is_windowed and not decided.is_windowed:
        console.print("Measured exactly: an earlier calibration was below collect.min_audit_spearman.")
    done = decided.num_done(store)
    num_beside = len(plan.units) - plan.num_trajectories
    console.print(
        f"Plan: {plan.num_trajectories} trajectories of {len(plan.documents)} documents"
        + (f" and {num_beside} side measurements" if num_beside else "")
        + (f", {done} of them in the store already" if done else "")
        + ("" if prepared.share == 1 else f", about {prepared.share:.1%} of the corpus"),
        highlight=False,
    )
    if prepared.window is not None:
        console.print(
            f"Planned with collect.window = {prepared.window}, the widest that the base model's "
            f"{prepared.source.max_positions} positions allow: mctrace collect wants it set",
            highlight=False,
        )


def print_left_out(skipped: Skipped, console: Console) -> None:
    """Print in one line how many files, lines and documents are no part of the run, and why."""
    if skipped:
        total = skipped.counts.total()
        console.print(f"{total} left out of the corpus: {skipped}", markup=False, highlight=False)


def print_forecast(timed: TimedForecast, hardware: Hardware | None, console: Console) -> None:
    """Print the work, time and bytes that a run is predicted to take, here or on `hardware`."""
    prediction = timed.forecast
    speed = (
        f"{timed.flops_per_second / 1e9:.1f} GFLOP/s measured on one trajectory"
        if hardware is None
        else f"{timed.flops_per_second / 1e12:.1f} TFLOP/s an actor, {hardware.utilisation:.0%} of the peak"
    )
    console.print(
        f"{prediction.num_trajectories} trajectories, {prediction.num_snapshots} snapshots, "
        f"{prediction.num_effects} effects\n"
        f"{prediction.work.num_recomputed:,} tokens through the layers, "
        f"{prediction.work.num_read:,} through the head, {prediction.flops / 1e12:,.1f} TFLOP\n"
        f"{speed}: {_duration(prediction.seconds)} on {timed.num_workers} worker(s), "
        f"{prediction.num_bytes / 1e9:.3f} GB in the store",
        highlight=False,
    )
    if timed.calibration_flops is not None and timed.exact_flops is not None:
        console.print(
            f"Before that, {timed.calibration_flops / 1e12:,.1f} TFLOP of calibration; if it falls below "
            f"collect.min_audit_spearman, the run is exact: {timed.exact_flops / 1e12:,.1f} TFLOP",
            highlight=False,
        )


def print_within_hours(within: WithinHours, console: Console) -> None:
    """Print what makes the run fit a time, if it does not."""
    time = _duration(3600 * within.hours)
    if within.is_met:
        line = f"It fits {time} as it is."
    elif within.limit >= len(SPLITS):
        line = (
            f"To fit {time}: --actors {within.num_actors} of this speed, or --limit {within.limit}; or fewer "
            "effects a document by collect.max_actions or collect.trajectories_per_document"
        )
    else:
        line = (
            f"To fit {time}: --actors {within.num_actors} of this speed; not one document in each split "
            "fits now: lower collect.max_actions or collect.trajectories_per_document"
        )
    console.print(line, highlight=False)


def print_head(work: RemainingWork, console: Console) -> None:
    """Print how much is planned before workers start, and how much of that the store has."""
    if work.is_exact:
        console.print("Measured exactly: an earlier calibration was below collect.min_audit_spearman.")
    num_beside = work.num_planned - work.num_trajectories
    console.print(
        f"Plan: {work.num_trajectories} trajectories of {work.num_documents} documents"
        + (f" and {num_beside} side measurements" if num_beside else "")
        + (f", {work.num_done} of them in the store already" if work.num_done else "")
        + ("" if work.is_whole else "; further documents are planned while these are measured")
    )


def print_interrupted(console: Console) -> None:
    """Print what becomes of an interrupted run."""
    console.print(
        "Interrupted: what was measured is committed; the same command measures the rest.", highlight=False
    )


def print_summary(summary: RunSummary, version: int, min_spearman: float, console: Console) -> None:
    """Print what a run measured, its checks, and how far off its forecast was."""
    if summary.run_id is None:
        console.print(
            f"Nothing to measure: all {summary.num_planned - summary.num_in_quarantine} planned trajectories"
            f"{' outside quarantine' if summary.num_in_quarantine else ''} are in the store "
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


def print_quarantined(summary: RunSummary, console: Console) -> bool:
    """Print in one line how many items are in quarantine; False, and nothing printed, where none is."""
    if summary.num_quarantined + summary.num_in_quarantine == 0:
        return False
    counts = (
        (summary.num_quarantined, "given up by this run"),
        (summary.num_in_quarantine, "by earlier ones"),
    )
    console.print(
        f"In quarantine: {', '.join(f'{n} items {by}' for n, by in counts if n)}; 'mctrace log' says why, "
        "'mctrace collect --retry-quarantined' measures them again",
        highlight=False,
    )
    return True


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
            + ("exactly instead" if checks.estimator == EXACT else checks.estimator.name),
            highlight=False,
        )
    if summary.pairs:
        audit = compare_estimators(summary.pairs)
        is_gated = checks is not None and checks.estimator.name == "windowed"
        too_low = ", below collect.min_audit_spearman: the calibration was too kind, prefer exact labels"
        if audit.spearman is not None:
            console.print(
                f"Audit on {audit.num_actions} actions: rank correlation {audit.spearman:.3f}"
                + (too_low if is_gated and audit.spearman < min_spearman else ""),
                highlight=False,
            )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
