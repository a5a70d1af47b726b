"""Plans and results of collection runs as `--json` prints them."""

from dataclasses import asdict
from typing import Any

from mctrace.collect.planning.plan_stream import TOO_SHORT
from mctrace.collect.planning.time_limit import WithinHours
from mctrace.collect.running.driver import RunSummary
from mctrace.collect.running.prepared_run import PreparedRun
from mctrace.collect.running.timed_forecast import TimedForecast
from mctrace.datasets.store.store import Store


def plan_answer(
    prepared: PreparedRun, store: Store | None, timed: TimedForecast | None, within: WithinHours | None
) -> dict[str, Any]:
    """A plan and its forecast; `forecast` is null where nothing is left to measure, `within_hours` where no
    time was given too."""
    plan, share = prepared.plan, prepared.share
    return {
        "num_documents": round(len(plan.documents) / share),
        "num_trajectories": round(plan.num_trajectories / share),
        "num_side_measurements": round((len(plan.units) - plan.num_trajectories) / share),
        "share_planned": share,
        "window": prepared.window,
        "num_done": prepared.decided.num_done(store),
        "num_too_short": prepared.left_out.counts[TOO_SHORT],
        "left_out": dict(prepared.left_out.counts),
        "is_windowed": prepared.decided.is_windowed,
        "forecast": timed and asdict(timed.forecast),
        "flops_per_second": timed and timed.flops_per_second,
        "num_workers": timed and timed.num_workers,
        "calibration_flops": timed and timed.calibration_flops,
        "exact_flops": timed and timed.exact_flops,
        "within_hours": within and asdict(within),
    }


def summary_answer(summary: RunSummary, version: int, left_out: dict[str, int]) -> dict[str, Any]:
    """Results of a collection run; `run_id` is null where nothing was left to measure."""
    found = {name: value for name, value in vars(summary).items() if name not in ("checks", "pairs")}
    checks = summary.checks
    return {
        **found,
        "predicted": summary.predicted and asdict(summary.predicted),
        "estimator": checks and checks.estimator,
        "noise_floor": checks and checks.noise_floor and asdict(checks.noise_floor),
        "calibration": checks and checks.calibration and asdict(checks.calibration),
        "num_audited": len(summary.pairs),
        "left_out": left_out,
        "version": version,
    }
