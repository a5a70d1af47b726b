"""Worker as a Ray actor: a process of its own with one model."""

import platform
from dataclasses import dataclass

import ray

from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.cluster.metrics import export
from mctrace.collect.cluster.run_logs import keep_logs
from mctrace.collect.measuring.worker_probe import Probe
from mctrace.collect.workers.worker import Finished, RunContext, Worker, WorkItem
from mctrace.datasets.store.parts import Part


@dataclass(frozen=True)
class Joined:
    """Report of an actor once its model is loaded."""

    node_id: str
    model_size: ModelSize
    batch_tokens: int
    probe: Probe
    gpus: tuple[str, ...] = ()
    """those that hold its model, by the ids of their maker"""


class WorkerActor:
    """A worker in a process of its own, which loads its model in `join`."""

    def __init__(self, context: RunContext, num_threads: int) -> None:
        self._context, self._num_threads = context, num_threads
        keep_logs(context.logs, "worker")
        export(context.run_id, platform.node())

    def locate(self) -> str:
        """Id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def join(self) -> Joined:
        # Not when it is constructed: what goes wrong there reaches the driver as text alone.
        self._worker = worker = Worker(self._context, self._num_threads)
        node_id = WorkerActor.locate(self)
        return Joined(node_id, worker.model_size(), worker.batch_tokens(), worker.probe(), worker.gpus())

    def write_embeddings(self) -> Part:
        return self._worker.write_embeddings()

    def measure(self, item: WorkItem) -> Finished:
        return self._worker.measure(item)


MeasuringActor = ray.remote(WorkerActor)
