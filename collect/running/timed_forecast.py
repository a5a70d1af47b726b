"""Forecast of a run: from one typical trajectory, timed here and not kept, or for GPUs that are not here."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from mctrace.base_model.causal_lm import GPU_BATCH_TOKENS, FrozenCausalLM
from mctrace.base_model.flop_counts import ModelSize
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import RayConfig
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.forecast import Forecast, forecast, total_work
from mctrace.collect.planning.hardware import Hardware
from mctrace.collect.planning.work_units import WorkUnit
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
    """of a worker: of the timed trajectory, or of the hardware that was given"""
    num_workers: int
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
    collect, provenance = settings.collect, plan.provenance
    context = RunContext("plan", store_uri, settings.model, settings.gists, provenance, collect.batch_tokens)
    worker = Worker(context, num_threads=max(1, int(ray.num_cpus)))
    size, batch_tokens = worker.model_size(), worker.batch_tokens()
    typical = sorted(remaining, key=lambda p: size.flops(p.work(batch_tokens)))[len(remaining) // 2]
    item = WorkItem(plan.documents[typical.document_id], typical, purpose="compare")
    rate = size.flops(typical.work(batch_tokens)) / worker.measure(item).seconds
    return _forecast(prepared, settings, remaining, store, size, batch_tokens, rate, ray.num_planned_actors)


def forecast_elsewhere(
    prepared: PreparedRun, settings: RunSettings, hardware: Hardware, store: Store | None
) -> TimedForecast | None:
    """The same for other hardware, without the model's weights."""
    remaining = prepared.decided.missing(store)
    if not remaining:
        return None
    wanted = settings.collect.batch_tokens
    batch_tokens = GPU_BATCH_TOKENS if wanted == "auto" else wanted
    size = size_without_weights(prepared.source)
    rate, num_actors = hardware.flops_per_second, hardware.num_actors
    return _forecast(prepared, settings, remaining, store, size, batch_tokens, rate, num_actors)


def size_without_weights(source: ModelSource) -> ModelSize:
    """Size of the model that a configuration describes."""
    with torch.device("meta"):
        return FrozenCausalLM(AutoModelForCausalLM.from_config(source.config)).size


def _forecast(
    prepared: PreparedRun,
    settings: RunSettings,
    remaining: list[WorkUnit],
    store: Store | None,
    size: ModelSize,
    batch_tokens: int,
    rate: float,
    num_workers: int,
) -> TimedForecast:
    plan, factor = prepared.decided, 1 / prepared.share
    documents = {d: plan.documents[d].num_tokens for d in plan.missing_documents(store)}
    prediction = forecast(
        remaining, size, rate, num_workers, batch_tokens, prepared.source.embedding_dim, documents
    ).scaled(factor)
    if plan.estimator == EXACT or prepared.calibration is not None:
        return TimedForecast(prediction, rate, num_workers, None, None)
    return TimedForecast(
        prediction,
        rate,
        num_workers,
        size.flops(calibration_work(plan, settings.collect.calibration_actions, batch_tokens)),
        factor * size.flops(total_work(plan.exactly().missing(store), batch_tokens)),
    )
