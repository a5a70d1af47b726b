"""Choice of the workers of a run: one in this process, or actors of a Ray cluster.

Ray is imported only where it is chosen.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mctrace.base_model.loading import resolve_device, resolve_dtype
from mctrace.collect.cluster.run_logs import LogConfig
from mctrace.collect.config import ModelConfig, RayConfig
from mctrace.collect.planning.plan_stream import Stage
from mctrace.collect.running.document_thread import DocumentThread
from mctrace.collect.workers.worker import RunContext
from mctrace.collect.workers.worker_pool import InProcessPool, WorkerPool


def start_workers(ray: RayConfig | None, logs: LogConfig, context: RunContext) -> WorkerPool:
    """Actors on the cluster `ray`, or a worker in this process for None."""
    if ray is None:
        return InProcessPool(context)
    from mctrace.collect.workers.ray_pool import RayPool

    model = context.model
    if Path(model.name).expanduser().is_dir():  # actors run in folders of their own
        model = replace(model, name=str(Path(model.name).expanduser().resolve()))
    return RayPool(replace(context, model=model, logs=logs), ray)


def decide_dtype(model: ModelConfig, ray: RayConfig | None) -> ModelConfig:
    """The model with its dtype decided for the devices of its workers, which a plan needs to know.

    Raises CollectError when the cluster cannot be reached.
    """
    if model.dtype != "auto":
        return model
    if ray is None or ray.address == "local":
        return model.in_dtype(resolve_dtype("auto", model.device, model.device_map))
    from mctrace.collect.workers.cluster_checks import uses_gpus

    device = None if model.device_map else model.device
    return model.in_dtype("bfloat16" if uses_gpus(ray, device) else "float32")


def document_stage() -> Stage:
    """Who makes documents while workers measure: tasks of the cluster that they run on, or a thread."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        from mctrace.collect.running.document_tasks import DocumentTasks

        return DocumentTasks()
    return DocumentThread()


def check_workers(ray: RayConfig | None, model: ModelConfig, store_uri: str) -> None:
    """Check device and cluster of a run that has nothing to measure and so starts no worker.

    Raises what starting a worker would raise: no such device, no such cluster.
    """
    device = None if model.device_map else model.device
    if ray is not None and ray.address != "local":
        from mctrace.collect.workers.cluster_checks import check_cluster

        check_cluster(ray, store_uri, device)
    elif device is not None:
        resolve_device(device)
