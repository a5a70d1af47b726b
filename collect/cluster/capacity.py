"""What the nodes of a cluster can hold: an actor has to fit on one node, whatever they have together."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_SLACK = 1e-6
"""Ray counts resources in ten-thousandths; sums of fractions are not exact."""


@dataclass(frozen=True)
class ClusterNode:
    """A node that is alive."""

    node_id: str
    host: str
    total: Mapping[str, float]
    free: Mapping[str, float]

    @property
    def name(self) -> str:
        """Host and the beginning of the node's id, which `ray list nodes` shows."""
        return f"{self.host} (node {self.node_id[:12]})"


@dataclass(frozen=True)
class Needs:
    """Resources of one actor."""

    num_cpus: float
    num_gpus: float

    @property
    def items(self) -> Sequence[tuple[str, float]]:
        return [(name, each) for name, each in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if each]

    def fit(self, have: Mapping[str, float]) -> int:
        """Number of actors that `have` holds."""
        return min((math.floor(have.get(name, 0.0) / each + _SLACK) for name, each in self.items), default=0)

    def __str__(self) -> str:
        return " and ".join(f"{each:g} {name}" for name, each in reversed(self.items))


def num_fitting(nodes: Collection[ClusterNode], needs: Needs) -> int:
    """Actors that the nodes hold when nothing else runs on them."""
    return sum(needs.fit(node.total) for node in nodes)


def too_large(nodes: Collection[ClusterNode], needs: Needs) -> str | None:
    """Why no node can hold one actor, whatever is free; None where one can."""
    if any(needs.fit(node.total) for node in nodes):
        return None
    largest = {name: max((n.total.get(name, 0.0) for n in nodes), default=0.0) for name, _ in needs.items}
    lacking = [name for name, each in needs.items if largest[name] + _SLACK < each]
    have = " and ".join(f"{largest[name]:g} {name}" for name in lacking or largest)
    how = "the largest has" if lacking else "together on one node; the most are"
    return f"no node of {len(nodes)} has {needs} for one actor ({how} {have})"


def free(nodes: Collection[ClusterNode], needs: Needs) -> str:
    """What the cluster has free of what an actor needs."""
    sums = {name: sum(node.free.get(name, 0.0) for node in nodes) for name, _ in needs.items}
    return "the cluster has " + " and ".join(f"{sums[name]:g} {name}" for name in reversed(sums)) + " free"
