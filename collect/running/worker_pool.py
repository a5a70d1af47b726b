"""Worker pools: the protocol, and one worker in this process (one per Ray actor: `ray_pool.py`)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.running.worker import Finished, RunContext, Worker, WorkItem
from mctrace.collect.running.worker_agreement import NamedProbe
from mctrace.datasets.store.parts import Part


class WorkerPool(Protocol):
    """Pool of workers of one run."""

    @property
    def num_workers(self) -> int: ...

    def model_size(self) -> ModelSize: ...

    def batch_tokens(self) -> int: ...

    def probes(self) -> Sequence[NamedProbe]:
        """Values of every worker for the seeded probe."""
        ...

    def admit_with(self, check: Callable[[NamedProbe], None]) -> None:
        """From now on, have `check` look at the probe of a worker that joins, before that gets work."""
        ...

    def write_embeddings(self) -> Part: ...

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished]:
        """Measures every item once and yields each as it is done, in no particular order."""
        ...

    def close(self) -> None: ...


class InProcessPool:
    """One worker, no Ray: for a machine without a cluster, and for debugging."""

    num_workers = 1

    def __init__(self, context: RunContext) -> None:
        self._worker = Worker(context)

    def model_size(self) -> ModelSize:
        return self._worker.model_size()

    def batch_tokens(self) -> int:
        return self._worker.batch_tokens()

    def probes(self) -> Sequence[NamedProbe]:
        return [NamedProbe("", self._worker.probe())]

    def admit_with(self, check: Callable[[NamedProbe], None]) -> None:
        """Nobody joins."""

    def write_embeddings(self) -> Part:
        return self._worker.write_embeddings()

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished]:
        return map(self._worker.measure, items)

    def close(self) -> None:
        """Nothing to give back."""
