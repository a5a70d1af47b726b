"""Elastic pool on Ray: items go to the actors that are ready, and elsewhere when one is lost.

Work begins with the first actor. One that is lost costs what it had in flight, which goes to others at once.
Only an item that raises, or that was being measured when its actor's process died, is charged with it; from
then on it is measured alone, so that it answers for itself.
"""

import logging
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.cluster.answers import as_raised_here, cause_of_death, get, lost_its_node
from mctrace.collect.cluster.connection import connect
from mctrace.collect.cluster.faults import MOST_FAULTS, Fault, classify, pause_after, reason_of
from mctrace.collect.cluster.metrics import export, observe, stop
from mctrace.collect.cluster.node_rates import NodeRates
from mctrace.collect.cluster.work_queue import Attempt, WorkQueue
from mctrace.collect.config import RayConfig
from mctrace.collect.workers.actor_group import TICK, ActorGroup, Member
from mctrace.collect.workers.worker import Finished, RunContext, WorkItem
from mctrace.collect.workers.worker_actor import Joined, MeasuringActor
from mctrace.collect.workers.worker_agreement import NamedProbe
from mctrace.collect.workers.worker_pool import Quarantined
from mctrace.datasets.store.parts import Part
from mctrace.errors import CollectError, brief

QUEUE_DEPTH = 2
"""Items per actor: one running, one waiting, so that no actor idles while the driver commits."""
_MOST_LOSSES = 10
"""Times an item may lose its actor together with a node before it is taken for the cause."""
_log = logging.getLogger(__name__)
_Outcomes = Iterator[Finished | Quarantined]


class RayPool:
    """An elastic pool of measuring actors. Begins when one is ready.

    Raises ConfigError when no node of this machine can hold one, CollectError when none starts in time, and
    what an actor raises where no other node is left to try.
    """

    def __init__(self, context: RunContext, config: RayConfig) -> None:
        self._context, self._config = context, config
        connect(config)
        try:
            export(context.run_id, platform.node())
            self._rates = NodeRates()
            self._group = ActorGroup(context, config, self._start_actor)
            first = self._group.await_one().joined
            assert first
            self._first: Joined = first
        except BaseException:
            self.close()
            raise

    @property
    def num_workers(self) -> int:
        return len(self._group.ready())

    def model_size(self) -> ModelSize:
        return self._first.model_size

    def batch_tokens(self) -> int:
        return self._first.batch_tokens

    def probes(self) -> Sequence[NamedProbe]:
        return self._group.probes()

    def admit_with(self, check: Callable[[NamedProbe], None]) -> None:
        self._group.check = check

    def write_embeddings(self) -> Part:
        """By the first actor that is ready, or another where that dies over it."""
        for _ in range(_MOST_LOSSES):
            member = self._group.await_one()
            try:
                part: Part = get(member.actor.write_embeddings.remote())
                return part
            except RayActorError as error:
                self._group.drop(member)
                self._group.say_lost(member, error, 0)
        raise CollectError(
            f"{_MOST_LOSSES} actors died while they wrote the embedding table: lack of memory?"
        )

    def measure(self, items: Iterable[WorkItem]) -> _Outcomes:
        queue, group = WorkQueue(iter(items)), self._group
        try:
            while True:
                group.grow()
                self._fill(queue)
                if queue.is_empty and not any(member.in_flight for member in group.members.values()):
                    return
                for member, reference in group.answers(queue.seconds_to_next(TICK)):
                    if reference in member.in_flight:
                        yield from self._settle(member, reference, queue)
                    else:
                        group.welcome(member)
                self._observe()
                group.mind_the_wait()
        finally:
            for member in group.members.values():
                member.in_flight.clear()

    def note(self) -> str:
        return str(self._rates)

    def close(self) -> None:
        stop()
        ray.shutdown()

    def _observe(self) -> None:
        members = self._group.members.values()
        observe("actors_wanted", len(members))
        observe("actors_ready", len(self._group.ready()))
        observe("items_in_flight", sum(len(member.in_flight) for member in members))

    def _start_actor(self) -> ActorHandle:
        needs, avoid = self._group.needs, ",".join(self._group.left_out)
        return MeasuringActor.options(
            num_cpus=needs.num_cpus,
            num_gpus=needs.num_gpus,
            max_restarts=0,
            label_selector={"ray.io/node-id": f"!in({avoid})"} if avoid else None,
        ).remote(self._context, max(1, math.floor(needs.num_cpus)))

    def _fill(self, queue: WorkQueue[WorkItem]) -> None:
        """Hand work to actors that are ready, the least busy first; nothing waits beside a suspect."""
        for depth in range(QUEUE_DEPTH):
            for member in self._group.ready():
                is_alone = any(attempt.is_suspect for attempt in member.in_flight.values())
                if len(member.in_flight) <= depth and not is_alone:
                    attempt = queue.take(is_idle=not member.in_flight)
                    if attempt is None:
                        return
                    member.in_flight[member.actor.measure.remote(attempt.item)] = attempt

    def _settle(self, member: Member, reference: ray.ObjectRef, queue: WorkQueue[WorkItem]) -> _Outcomes:
        """What became of an item: done, to be tried again, or given up."""
        attempt = member.in_flight[reference]
        try:
            finished: Finished = ray.get(reference)
        except RayActorError as error:
            yield from self._replace(member, error, queue)
            return
        except RayTaskError as error:
            del member.in_flight[reference]
            yield from self._retry(member, attempt, error.cause or error, queue)
            return
        except RayError as error:  # the answer was lost with the node that kept it
            source = attempt.item.document.source
            _log.warning("the answer for %s was lost (%s): measured again", source, brief(error))
            queue.put_back(attempt.lost())
        else:
            self._rates.add(self._group.node_name(member.node_id), finished.num_effects)
            yield finished
        del member.in_flight[reference]

    def _retry(
        self, member: Member, attempt: Attempt[WorkItem], error: BaseException, queue: WorkQueue[WorkItem]
    ) -> _Outcomes:
        """An item raised: what it means for the item, its actor and the run."""
        fault, where, source = classify(error), member.named(), attempt.item.document.source
        if fault is Fault.RUN:
            raise as_raised_here(error, where)
        if fault is Fault.INFRASTRUCTURE:
            attempt = attempt.faulted()
            if attempt.num_faults > MOST_FAULTS:
                raise CollectError(
                    f"{where}: {reason_of(error)}, {attempt.num_faults} times in a row; what was committed "
                    "stays, run the same command to go on"
                ) from None
            pause = pause_after(attempt.num_faults)
            _log.warning("%s: %s; %s is tried again in %.0f s", where, reason_of(error), source, pause)
            queue.put_back(attempt, pause)
            return
        if fault is Fault.DEVICE:
            self._group.drop(member)
            for waiting in member.in_flight.values():
                queue.put_back(waiting.lost())
            member.in_flight.clear()
        yield from self._charge(attempt, f"{reason_of(error)} ({where})", queue)

    def _replace(self, member: Member, error: RayActorError, queue: WorkQueue[WorkItem]) -> _Outcomes:
        """An actor died or is out of reach: keep what it had finished, send the rest elsewhere."""
        self._group.drop(member)
        unfinished: list[Attempt[WorkItem]] = []
        for reference, attempt in member.in_flight.items():
            try:
                ready, _ = ray.wait([reference], timeout=0)
                yield ray.get(ready[0])
            except (RayError, IndexError):
                unfinished.append(attempt)
        member.in_flight.clear()
        self._group.say_lost(member, error, len(unfinished))
        for place, attempt in enumerate(unfinished):
            # The first was being measured, the others waited behind it. Or it was done, and its answer was
            # lost with the actor that the next one killed: then it is innocent, and shows that when it is
            # measured alone.
            if place == 0 and (not lost_its_node(error) or attempt.num_losses >= _MOST_LOSSES):
                reason = f"its actor died: {cause_of_death(error)} ({member.named()})"
                yield from self._charge(attempt, reason, queue)
            else:
                observe("items_tried_again")
                queue.put_back(attempt.lost())

    def _charge(
        self, attempt: Attempt[WorkItem], reason: str, queue: WorkQueue[WorkItem]
    ) -> Iterator[Quarantined]:
        """One more failure of an item; the last one sends it into quarantine."""
        attempt, source = attempt.failed(), attempt.item.document.source
        if attempt.num_failures < self._config.max_attempts:
            _log.warning("%s failed: %s; tried again", source, reason)
            observe("items_tried_again")
            queue.put_back(attempt)
            return
        observe("items_quarantined")
        _log.error("%s failed %d times and is quarantined: %s", source, attempt.num_failures, reason)
        yield Quarantined(attempt.item, reason, attempt.num_failures)
