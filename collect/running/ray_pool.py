"""Workers on Ray: one actor holds one model, the driver keeps each busy with a short queue.

The only file that imports ray. An actor that dies costs what it had in flight: its items go to its successor,
a bounded number of times each. No actor gets work before its probe was looked at.
"""

import logging
import math
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mctrace.base_model.flop_counts import ModelSize
from mctrace.base_model.loading import resolve_device
from mctrace.collect.config import RayConfig
from mctrace.collect.measuring.worker_probe import Probe
from mctrace.collect.running.shared_folder_check import answer, refuse_unshared
from mctrace.collect.running.worker import Finished, RunContext, Worker, WorkItem
from mctrace.collect.running.worker_agreement import NamedProbe
from mctrace.context.shortage import shortage
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part
from mctrace.errors import CollectError, ConfigError, MctraceError, brief

_NODE_PATIENCE = 60
"""Seconds a node may take to start a process that looks for the store."""
_PATIENCE = 10
"""Seconds a cluster may take to take a connection."""
QUEUE_DEPTH = 2
"""Items per actor: one running, one waiting, so that no actor idles while the driver commits."""


@dataclass(frozen=True)
class _Joined:
    """Report of an actor once its model is loaded."""

    node_id: str
    model_size: ModelSize
    batch_tokens: int
    probe: Probe


class WorkerActor:
    """A worker in a process of its own, which loads its model in `join`."""

    def __init__(self, context: RunContext, num_threads: int) -> None:
        self._context, self._num_threads = context, num_threads

    def join(self) -> _Joined:
        # Not when it is constructed: what goes wrong there reaches the driver as text alone.
        self._worker = worker = Worker(self._context, self._num_threads)
        node_id = ray.get_runtime_context().get_node_id()
        return _Joined(node_id, worker.model_size(), worker.batch_tokens(), worker.probe())

    def write_embeddings(self) -> Part:
        return self._worker.write_embeddings()

    def measure(self, item: WorkItem) -> Finished:
        return self._worker.measure(item)


MeasuringActor = ray.remote(WorkerActor)


@dataclass(frozen=True)
class _InFlight:
    slot: int
    actor: ActorHandle
    item: WorkItem
    attempt: int


class RayPool:
    """A pool of measuring actors. Raises ConfigError when the cluster cannot hold them."""

    def __init__(self, context: RunContext, config: RayConfig) -> None:
        self._context, self._config = context, config
        _connect(config, context.store_uri)
        try:
            self._actors: dict[int, ActorHandle] = {}
            self._joining: dict[ray.ObjectRef, int] = {}
            self._joined: dict[int, _Joined] = {}
            self._num_deaths: Counter[int] = Counter()
            self._check: Callable[[NamedProbe], None] | None = None
            for slot in range(config.actors):
                self._start(slot)
            self._settle()
        except BaseException:
            ray.shutdown()
            raise

    @property
    def num_workers(self) -> int:
        return len(self._actors)

    def model_size(self) -> ModelSize:
        return self._joined[0].model_size

    def batch_tokens(self) -> int:
        return self._joined[0].batch_tokens

    def probes(self) -> Sequence[NamedProbe]:
        return [self._named(slot) for slot in self._actors]

    def admit_with(self, check: Callable[[NamedProbe], None]) -> None:
        self._check = check

    def write_embeddings(self) -> Part:
        """By the first actor, or its successor where it dies over it."""
        while True:
            self._settle()
            try:
                part: Part = _get(self._actors[0].write_embeddings.remote())
                return part
            except RayActorError as error:
                self._restart(0, error)

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished]:
        pending = iter(items)
        retries: deque[tuple[WorkItem, int]] = deque()
        in_flight: dict[ray.ObjectRef, _InFlight] = {}
        while True:
            all_given = self._fill(pending, retries, in_flight)
            if not in_flight and (all_given or not self._joining):
                return
            (done, *_), _ = ray.wait([*in_flight, *self._joining], num_returns=1)
            if done in self._joining:
                self._admit(done)
                continue
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
    ) -> bool:
        """Hand work to actors that have joined; True when none is left."""
        load = {
            slot: sum(job.slot == slot for job in in_flight.values())
            for slot in self._actors.keys() - self._joining.values()
        }
        while load and min(load.values()) < QUEUE_DEPTH:
            if retries:
                item, attempt = retries.popleft()
            else:
                following = next(pending, None)
                if following is None:
                    return True
                item, attempt = following, 1
            slot = min(load, key=lambda slot: (load[slot], slot))
            actor = self._actors[slot]
            in_flight[actor.measure.remote(item)] = _InFlight(slot, actor, item, attempt)
            load[slot] += 1
        return False

    def _start(self, slot: int) -> None:
        self._actors[slot] = actor = self._start_actor()
        self._joining[actor.join.remote()] = slot

    def _restart(self, slot: int, error: RayActorError) -> None:
        self._num_deaths[slot] += 1
        if self._num_deaths[slot] >= self._config.max_attempts:
            raise CollectError(
                f"an actor died {self._num_deaths[slot]} times before it measured anything ({brief(error)}); "
                f"is there enough memory for {len(self._actors)} models?"
            ) from error
        self._start(slot)

    def _settle(self) -> None:
        """Waits until every actor that was started has joined."""
        while self._joining:
            (done, *_), _ = ray.wait(list(self._joining), num_returns=1)
            self._admit(done)

    def _admit(self, done: ray.ObjectRef) -> None:
        """An actor whose model is loaded, once its probe is what it should be."""
        slot = self._joining.pop(done)
        try:
            self._joined[slot] = _get(done)
        except RayActorError as error:
            self._restart(slot, error)
            return
        if self._check:
            self._check(self._named(slot))

    def _named(self, slot: int) -> NamedProbe:
        joined = self._joined[slot]
        return NamedProbe(f"actor {slot} of node {joined.node_id[:12]}", joined.probe)

    def _replace(self, job: _InFlight, error: RayActorError) -> None:
        """A new actor in the dead one's slot, unless a sibling item already brought one."""
        if job.attempt >= self._config.max_attempts:
            raise CollectError(
                f"the actor measuring {job.item.document.source} died {job.attempt} times "
                f"({brief(error)}); is there enough memory for {len(self._actors)} models? "
                "What was committed stays; run the same command to go on"
            ) from error
        if self._actors[job.slot] is job.actor:
            self._start(job.slot)

    def _start_actor(self) -> ActorHandle:
        return MeasuringActor.options(
            num_cpus=self._config.num_cpus, num_gpus=self._config.num_gpus, max_restarts=0
        ).remote(self._context, max(1, math.floor(self._config.num_cpus)))


def _get(reference: Any) -> Any:
    """The result behind a reference, with the worker's own error as if it had been raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, MctraceError):
            raise error.cause from None
        if ran_out := shortage(error.cause):
            raise CollectError(f"a worker {ran_out}; what was committed stays") from None
        raise


def check_cluster(config: RayConfig, store_uri: str, device: str | None) -> None:
    """Raises what a run on this cluster would: that it cannot be reached or hold the actors (CollectError,
    ConfigError), or that they would not have `device` (ModelError)."""
    _connect(config, store_uri)
    try:
        if device is not None:
            asked = _check_device.options(num_cpus=config.num_cpus, num_gpus=config.num_gpus).remote(device)
            # On a cluster that is busy nobody may have time to answer.
            for answered in ray.wait([asked], timeout=_NODE_PATIENCE)[0]:
                _get(answered)
    finally:
        ray.shutdown()


def _connect(config: RayConfig, store_uri: str) -> None:
    terminate = signal.getsignal(signal.SIGTERM)
    _start_ray(config)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray's own would end us without a last commit
    try:
        _refuse_impossible(config, Location.of(store_uri))
    except BaseException:
        ray.shutdown()
        raise


def _start_ray(config: RayConfig) -> None:
    local = config.address == "local"
    try:
        if not local and config.address != "auto":
            _knock(config.address)
        ray.init(
            address=config.address,
            num_cpus=math.ceil(config.actors * config.num_cpus) if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # a node that is too slow raises Exception itself
        ray.shutdown()
        if local:
            raise CollectError(
                f"Ray does not start on this machine ({brief(error)}): it may be too busy or short of "
                "memory; try again, or measure without Ray (collect --no-ray)"
            ) from error
        raise CollectError(
            f"no Ray cluster at {config.address!r} ({brief(error)}): give --ray-address HOST:PORT of one "
            "that runs (`ray status` there says so), or measure here (--ray-address local, --no-ray)"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError or ValueError when nobody listens at HOST:PORT: Ray would retry for many minutes."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None or place.port is None:
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((place.hostname, place.port), timeout=_PATIENCE).close()


@ray.remote  # type: ignore[untyped-decorator]
def _check_device(device: str) -> None:
    resolve_device(device)


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
