"""Forecast of a run from one typical trajectory, timed here and not kept."""

from dataclasses import dataclass

from mctrace.collect.config import RayConfig
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.forecast import Forecast, forecast, total_work
from mctrace.collect.run_settings import RunSettings
from mctrace.collect.running.calibration import calibration_work
from mctrace.collect.running.prepared_run import PreparedRun
from mctrace.collect.workers.worker import RunContext, Worker, WorkItem
from mctrace.datasets.store.store import Store


@dataclass(frozen=True)
class TimedForecast:
    """Forecast of what a run still has to measure."""

    forecast: Forecast
    flops_per_second: float
    """speed of the timed trajectory"""
    calibration_flops: float | None
    """work of the calibration that comes first; None where no calibration is needed"""
    exact_flops: float | None
    """work of the run if that calibration fails"""


def time_forecast(
    prepared: PreparedRun, settings: RunSettings, ray: RayConfig, store_uri: str, store: Store | None
) -> TimedForecast | None:
    """Measure the trajectory of median work, and scale its time to the whole run.

    None when every planned trajectory is in the store.
    """
    plan = prepared.decided
    remaining = plan.missing(store)
    if not remaining:
        return None
    collect, provenance = settings.collect, prepared.plan.provenance
    context = RunContext("plan", store_uri, settings.model, settings.gists, provenance, collect.batch_tokens)
    worker = Worker(context, num_threads=max(1, int(ray.num_cpus)))
    size, batch_tokens = worker.model_size(), worker.batch_tokens()
    typical = sorted(remaining, key=lambda p: size.flops(p.work(batch_tokens)))[len(remaining) // 2]
    item = WorkItem(plan.documents[typical.document_id], typical, purpose="compare")
    rate = size.flops(typical.work(batch_tokens)) / worker.measure(item).seconds
    documents = {d: plan.documents[d].num_tokens for d in plan.missing_documents(store)}
    prediction = forecast(
        remaining, size, rate, ray.num_planned_actors, batch_tokens, prepared.source.embedding_dim, documents
    )
    if plan.estimator == EXACT or prepared.calibration is not None:
        return TimedForecast(prediction, rate, None, None)
    return TimedForecast(
        prediction,
        rate,
        size.flops(calibration_work(plan, collect.calibration_actions, batch_tokens)),
        size.flops(total_work(plan.exactly().missing(store), batch_tokens)),
    )
