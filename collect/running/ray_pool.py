"""Workers on Ray: one actor holds one model, the driver keeps each busy with a short queue.

The only file that imports ray. An actor that dies costs what it had in flight: its items go to its successor,
a bounded number of times each.
"""

import logging
import math
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mctrace.base_model.sizes import ModelSize
from mctrace.collect.config import RayConfig
from mctrace.collect.running.shared_folder import answer, refuse_unshared
from mctrace.collect.running.worker import Finished, RunContext, Worker, WorkItem
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part
from mctrace.errors import CollectError, ConfigError, MctraceError

_NODE_PATIENCE = 60
"""Seconds a node may take to start a process that looks for the store."""
QUEUE_DEPTH = 2
"""Items per actor: one running, one waiting, so that no actor idles while the driver commits."""


@ray.remote
class MeasuringActor:
    """A worker in a process of its own."""

    def __init__(self, context: RunContext, num_threads: int) -> None:
        self._worker = Worker(context, num_threads)

    def model_size(self) -> ModelSize:
        return self._worker.model_size()

    def batch_tokens(self) -> int:
        return self._worker.batch_tokens()

    def write_embeddings(self) -> Part:
        return self._worker.write_embeddings()

    def measure(self, item: WorkItem) -> Finished:
        return self._worker.measure(item)


@dataclass(frozen=True)
class _InFlight:
    slot: int
    actor: ActorHandle
    item: WorkItem
    attempt: int


class RayWorkers:
    """A pool of measuring actors. Raises ConfigError when the cluster cannot hold them."""

    def __init__(self, context: RunContext, config: RayConfig) -> None:
        self._context, self._config = context, config
        terminate = signal.getsignal(signal.SIGTERM)
        _start_ray(config)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray's own would end us without a last commit
        try:
            _refuse_impossible(config, Location.of(context.store_uri))
            self._actors = [self._start_actor() for _ in range(config.actors)]
            self._size: ModelSize = self._ask("model_size")
            self._batch_tokens: int = self._ask("batch_tokens")
        except BaseException:
            ray.shutdown()
            raise

    @property
    def num_workers(self) -> int:
        return len(self._actors)

    def model_size(self) -> ModelSize:
        return self._size

    def batch_tokens(self) -> int:
        return self._batch_tokens

    def write_embeddings(self) -> Part:
        part: Part = self._ask("write_embeddings")
        return part

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished]:
        pending = iter(items)
        retries: deque[tuple[WorkItem, int]] = deque()
        in_flight: dict[ray.ObjectRef, _InFlight] = {}
        while True:
            self._fill(pending, retries, in_flight)
            if not in_flight:
                return
            (done, *_), _ = ray.wait(list(in_flight), num_returns=1)
            job = in_flight.pop(done)
            try:
                finished: Finished = _get(done)
            except RayActorError as error:
                self._replace(job, error)
                retries.append((job.item, job.attempt + 1))
            else:
                yield finished

    def close(self) -> None:
        ray.shutdown()

    def _fill(
        self,
        pending: Iterator[WorkItem],
        retries: deque[tuple[WorkItem, int]],
        in_flight: dict[ray.ObjectRef, _InFlight],
    ) -> None:
        load = [sum(job.slot == slot for job in in_flight.values()) for slot in range(len(self._actors))]
        while min(load) < QUEUE_DEPTH:
            if retries:
                item, attempt = retries.popleft()
            else:
                following = next(pending, None)
                if following is None:
                    return
                item, attempt = following, 1
            slot = load.index(min(load))
            actor = self._actors[slot]
            in_flight[actor.measure.remote(item)] = _InFlight(slot, actor, item, attempt)
            load[slot] += 1

    def _ask(self, method: str) -> Any:
        """What the first actor says, or its successor where it dies over it."""
        for attempt in range(1, self._config.max_attempts + 1):
            try:
                return _get(getattr(self._actors[0], method).remote())
            except RayActorError as error:
                if attempt == self._config.max_attempts:
                    raise CollectError(
                        f"an actor died {attempt} times before it measured anything "
                        f"({str(error).splitlines()[0]}); is there enough memory for "
                        f"{len(self._actors)} models?"
                    ) from error
                self._actors[0] = self._start_actor()
        raise AssertionError("ray.max_attempts is at least 1")

    def _replace(self, job: _InFlight, error: RayActorError) -> None:
        """A new actor in the dead one's slot, unless a sibling item already brought one."""
        if job.attempt >= self._config.max_attempts:
            raise CollectError(
                f"the actor measuring {job.item.document.source} died {job.attempt} times "
                f"({str(error).splitlines()[0]}); is there enough memory for {len(self._actors)} models? "
                "What was committed stays; run the same command to go on"
            ) from error
        if self._actors[job.slot] is job.actor:
            self._actors[job.slot] = self._start_actor()

    def _start_actor(self) -> ActorHandle:
        return MeasuringActor.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus, num_gpus=self._config.num_gpus, max_restarts=0
        ).remote(self._context, max(1, math.floor(self._config.num_cpus)))


def _get(reference: Any) -> Any:
    """The result behind a reference, with the worker's own error as if it had been raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, MctraceError):
            raise error.cause from None
        raise


def _start_ray(config: RayConfig) -> None:
    local = config.address == "local"
    try:
        ray.init(
            address=config.address,
            num_cpus=math.ceil(config.actors * config.num_cpus) if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CollectError(f"no Ray cluster at {config.address!r}: {error}") from error


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _answer(place: Path, node: str) -> None:
    answer(place, node)


def _ask_nodes(place: Path, nodes: Iterable[str]) -> None:
    answers = [
        _answer.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            place, node
        )
        for node in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=_NODE_PATIENCE)


def _refuse_impossible(config: RayConfig, store: Location) -> None:
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and store.is_local:
        refuse_unshared(Path(store.root), nodes, _ask_nodes)
    have = ray.cluster_resources()
    for resource, each in (("CPU", config.num_cpus), ("GPU", config.num_gpus)):
        if each * config.actors > have.get(resource, 0):
            raise ConfigError(
                f"{config.actors} actors with {each:g} {resource} each need "
                f"{each * config.actors:g}, the cluster has {have.get(resource, 0):g}: "
                "lower ray.actors (--actors)"
            )
