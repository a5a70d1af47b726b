"""Worker pools: the protocol, and one worker in this process (one per Ray actor: `ray_pool.py`).

The driver and a pool meet in `measure` alone. The driver gives an iterator of `WorkItem`; the pool draws from
it only as workers have room (two items per worker), so a plan may be a generator of any length, and gives
back, in no particular order, one `Finished` or `Quarantined` per item. It retries, waits for infrastructure
and replaces workers by itself; parts it names are written but not committed. An exception out of `measure`
ends the run.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.cluster.faults import MOST_FAULTS, Fault, classify, pause_after, reason_of
from mctrace.collect.cluster.work_queue import Attempt
from mctrace.collect.config import RayConfig
from mctrace.collect.workers.worker import Finished, RunContext, Worker, WorkItem
from mctrace.collect.workers.worker_agreement import NamedProbe
from mctrace.datasets.store.parts import Part
from mctrace.errors import CollectError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quarantined:
    """Item that was given up: it raised, or killed its worker, as often as it was tried."""

    item: WorkItem
    reason: str
    """of the last time, in one line, with the worker"""
    num_attempts: int


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

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished | Quarantined]:
        """Measures every item and yields what became of each as it is known, in no particular order."""
        ...

    def note(self) -> str:
        """Rate of each node, to show beside that of the run; empty where there is one node."""
        ...

    def close(self) -> None: ...


class InProcessPool:
    """One worker, no Ray: for a machine without a cluster, and for debugging."""

    num_workers = 1

    def __init__(self, context: RunContext, max_attempts: int = RayConfig.max_attempts) -> None:
        self._worker = Worker(context)
        self._max_attempts = max_attempts

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

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished | Quarantined]:
        return map(self._outcome, items)

    def _outcome(self, item: WorkItem) -> Finished | Quarantined:
        attempt = Attempt(item)
        while True:
            try:
                return self._worker.measure(item)
            except Exception as error:
                fault = classify(error)
                if fault in (Fault.RUN, Fault.DEVICE):
                    raise  # a device that failed cannot be replaced here
                if fault is Fault.INFRASTRUCTURE and attempt.num_faults >= MOST_FAULTS:
                    raise CollectError(
                        f"{reason_of(error)}, {attempt.num_faults + 1} times in a row; what was committed "
                        "stays, run the same command to go on"
                    ) from error
                attempt = attempt.faulted() if fault is Fault.INFRASTRUCTURE else attempt.failed()
                reason, source = reason_of(error), item.document.source
                if attempt.num_failures >= self._max_attempts:
                    _log.error(
                        "%s failed %d times and is quarantined: %s", source, self._max_attempts, reason
                    )
                    return Quarantined(item, reason, attempt.num_failures)
                pause = pause_after(attempt.num_faults) if fault is Fault.INFRASTRUCTURE else 0.0
                _log.warning("%s failed: %s; tried again in %.0f s", source, reason, pause)
                time.sleep(pause)

    def note(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing to give back."""
