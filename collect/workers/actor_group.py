"""The actors of a run: as many as the cluster holds up to the number asked for, whatever nodes come and go.

Actors that do not fit yet wait in Ray's own queue, which is what autoscalers look at: a node that comes later
takes one up. No actor is ready before its probe was looked at.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RaySystemError

from mctrace.collect.cluster.answers import cause_of_death, get, lost_its_node
from mctrace.collect.cluster.capacity import free, num_fitting, too_large
from mctrace.collect.cluster.connection import needs_of, nodes_alive
from mctrace.collect.cluster.work_queue import Attempt
from mctrace.collect.config import RayConfig
from mctrace.collect.workers.cluster_checks import SMALLER, refuse_blind
from mctrace.collect.workers.worker import RunContext, WorkItem
from mctrace.collect.workers.worker_actor import Joined
from mctrace.collect.workers.worker_agreement import NamedProbe
from mctrace.datasets.store.location import Location
from mctrace.errors import CollectError, ConfigError, MctraceError

TICK = 1.0
"""Seconds after which the cluster is looked at again, whether or not an actor reports."""
_SAY_EVERY = 5.0
"""Seconds between two lines that say what a run waits for."""
_MOST_CANCELLED = 10
"""Actors that the cluster may cancel in a row before one is on a node, while none is ready."""
_log = logging.getLogger(__name__)


@dataclass
class Member:
    """An actor, from being asked for to its loss."""

    slot: int
    actor: ActorHandle
    coming: ray.ObjectRef
    """answer it owes before it gets work: where it is, then what it has loaded"""
    node_id: str | None = None
    joined: Joined | None = None
    in_flight: dict[ray.ObjectRef, Attempt[WorkItem]] = field(default_factory=dict)
    """in the order in which they were sent, which is that in which they are measured"""

    def named(self) -> NamedProbe:
        """Its probe, once it has joined."""
        assert self.joined
        return NamedProbe(f"actor {self.slot} of node {self.joined.node_id[:12]}", self.joined.probe)


class ActorGroup:
    """Actors of one run on the connected cluster; `start` asks Ray for one more.

    Raises ConfigError when no node of this machine can hold one, or nodes do not share a local store.
    """

    def __init__(self, context: RunContext, config: RayConfig, start: Callable[[], ActorHandle]) -> None:
        self._config, self._start = config, start
        self.needs = needs_of(config, None if context.model.device_map else context.model.device)
        self.members: dict[int, Member] = {}
        self.left_out: dict[str, MctraceError] = {}
        """nodes that cannot measure, with why"""
        self.check: Callable[[NamedProbe], None] | None = None
        self._store = Location.of(context.store_uri)
        self._nodes = nodes_alive()
        self._looked = self._placed = monotonic()
        self._said, self._said_at = "", 0.0
        self._paused_until = 0.0
        self._num_started = 0
        self._num_cancelled = 0
        self._deaths_while_joining: Counter[str] = Counter()
        if config.address == "local" and (reason := too_large(self._nodes, self.needs)):
            raise ConfigError(f"{reason}: {SMALLER}")
        self._sharing = {node.node_id for node in self._nodes}
        if len(self._nodes) > 1:
            refuse_blind(self._store, sorted(self._sharing))

    def ready(self) -> list[Member]:
        """Members that can be given work."""
        return [member for member in self.members.values() if member.joined]

    def grow(self) -> None:
        """Ask Ray for the actors that are missing; not at once after one that Ray lost on its way."""
        if monotonic() < self._paused_until:
            return
        if monotonic() - self._looked >= TICK:
            self._nodes, self._looked = nodes_alive(), monotonic()
        while len(self.members) < self._num_wanted():
            slot, self._num_started = self._num_started, self._num_started + 1
            actor = self._start()
            self.members[slot] = Member(slot, actor, actor.locate.remote())

    def _num_wanted(self) -> int:
        if self._config.actors != "auto":
            return self._config.actors
        usable = [node for node in self._nodes if node.node_id not in self.left_out]
        return max(1, num_fitting(usable, self.needs))

    def await_one(self) -> Member:
        """The first member that is ready; waits for it."""
        while not self.ready():
            self.grow()
            for member, _ in self.answers(TICK):
                self.welcome(member)
            self.mind_the_wait()
        return self.ready()[0]

    def answers(self, timeout: float) -> list[tuple[Member, ray.ObjectRef]]:
        """An answer that came, with whose it is; nothing after `timeout` seconds without one."""
        owed = {
            reference: member
            for member in self.members.values()
            for reference in (*member.in_flight, *(() if member.joined else (member.coming,)))
        }
        if not owed:
            sleep(timeout)
            return []
        done, _ = ray.wait(list(owed), num_returns=1, timeout=timeout)
        return [(owed[reference], reference) for reference in done]

    def welcome(self, member: Member) -> None:
        """Take the next step with an actor that is on its way: it is placed, or its model is loaded.

        Raises ConfigError for a GPU that several share, and what the check of its probe raises.
        """
        try:
            answered = get(member.coming)
            if isinstance(answered, str):
                member.node_id, self._num_cancelled = answered, 0
                if answered not in self._sharing:
                    refuse_blind(self._store, [answered])
                    self._sharing.add(answered)
                member.coming = member.actor.join.remote()
                return
        except RayActorError as error:
            self.drop(member)
            self._mourn(member, error)
            return
        except MctraceError as error:
            self.drop(member)
            self._leave_out(member, error)
            return
        member.joined = answered
        self._refuse_shared_gpu(answered)
        if self.check:
            self.check(member.named())

    def drop(self, member: Member) -> None:
        """Part with an actor; the next `grow` asks for another."""
        self.members.pop(member.slot, None)
        with suppress(RaySystemError):  # Ray has cancelled it already
            ray.kill(member.actor)  # one that is merely out of reach would keep its device

    def _refuse_shared_gpu(self, joined: Joined) -> None:
        """Raises ConfigError where actors have more of a GPU than there is, unasked."""
        share = self.needs.num_gpus if 0 < self.needs.num_gpus < 1 else 1.0
        for gpu in joined.gpus:
            num = sum(gpu in one.joined.gpus for one in self.ready() if one.joined)
            if num > 1 and num * share > 1 + 1e-6:
                raise ConfigError(
                    f"{num} actors on {self.node_name(joined.node_id)} share {joined.probe.where} unasked: "
                    "give --gpus-per-actor 1, or a fraction like 0.5 to share it on purpose"
                )

    def _mourn(self, member: Member, error: RayActorError) -> None:
        """An actor died before it had joined: on a node that is still there, some times at most."""
        self._paused_until = monotonic() + TICK
        if member.node_id is None:
            if not lost_its_node(error):
                said = cause_of_death(error)
                raise CollectError(f"an actor does not start ({said}): is the same mctrace on every node?")
            self._num_cancelled += 1
            if self._num_cancelled >= _MOST_CANCELLED and not self.ready():
                raise CollectError(
                    f"the cluster cancelled {self._num_cancelled} actors in a row before they were on a node "
                    f"({cause_of_death(error)}): can it reach this machine, and has it been started with the "
                    f"RAY_AUTH_MODE that is set here ({os.environ.get('RAY_AUTH_MODE', 'none')})?"
                )
            return
        if lost_its_node(error):
            return
        self._deaths_while_joining[member.node_id] += 1
        died = self._deaths_while_joining[member.node_id]
        if died >= self._config.max_attempts:
            num_models = 1 + sum(one.node_id == member.node_id for one in self.members.values())
            reason = (
                f"an actor died {died} times before it measured anything ({cause_of_death(error)}); is there "
                f"enough memory for {num_models} models?"
            )
            self._leave_out(member, CollectError(reason))

    def _leave_out(self, member: Member, error: MctraceError) -> None:
        """Go on without a node that cannot measure. Raises `error` with its name where no other is left."""
        assert member.node_id
        named = type(error)(f"{self.node_name(member.node_id)}: {error}")
        self.left_out[member.node_id] = named
        if not num_fitting([n for n in self._nodes if n.node_id not in self.left_out], self.needs):
            raise named from None
        _log.error("%s; the run goes on without this node", named)
        for other in list(self.members.values()):  # asked for anew, elsewhere
            if not other.joined and other.node_id in (None, member.node_id):
                self.drop(other)

    def mind_the_wait(self) -> None:
        """Say what is waited for. Raises CollectError when no actor has been on a node for too long."""
        now, line = monotonic(), self._waiting_line()
        if any(member.node_id for member in self.members.values()):
            self._placed = now
        is_news = line != self._said or not self.ready()
        if line and is_news and now - self._said_at >= _SAY_EVERY:
            _log.info("%s", line)
            self._said, self._said_at = line, now
        if now - self._placed > self._config.start_timeout:
            raise CollectError(
                f"no actor could start within {self._config.start_timeout:g} s (ray.start_timeout)"
                f"{f': {line}' if line else ''}; "
                f"free resources, add nodes, or {SMALLER}. What was committed stays"
            )

    def _waiting_line(self) -> str:
        """ "3 of 8 actors ready; …"; empty when all are."""
        members = self.members.values()
        num_ready = len(self.ready())
        num_loading = sum(not m.joined and m.node_id is not None for m in members)
        if num_ready == len(members):
            return ""
        line = f"{num_ready} of {len(members)} actors ready"
        if num_loading:
            line += f"; {num_loading} load the model"
        if num_waiting := len(members) - num_ready - num_loading:
            if impossible := too_large(self._nodes, self.needs):
                line += f"; {num_waiting} waiting for {self.needs} each: {impossible}"
            else:  # what an actor that starts has taken already is not free either
                line += f"; {num_waiting} starting or waiting for {self.needs} each: "
                line += free(self._nodes, self.needs)
        return line

    def say_lost(self, member: Member, error: RayActorError, num_items: int) -> None:
        """Say that an actor is gone and where its work goes."""
        how = "is lost with its node" if lost_its_node(error) else f"died ({cause_of_death(error)})"
        _log.warning(
            "1 actor %s: %s; %d items sent elsewhere, %d actors ready",
            how, self.node_name(member.node_id), num_items, len(self.ready()),
        )  # fmt: skip
        self._said_at = 0.0

    def node_name(self, node_id: str | None) -> str:
        """Host and id of a node, as far as it is known."""
        known = {node.node_id: node.name for node in self._nodes}
        return known.get(node_id or "", f"node {(node_id or 'unknown')[:12]}")

    def probes(self) -> Sequence[NamedProbe]:
        """Probes of the members that are ready."""
        return [member.named() for member in self.ready()]
