"""Checks of a cluster before its actors get work: room for one, a device, a store folder that nodes share."""

from collections.abc import Iterable
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mctrace.base_model.loading import resolve_device
from mctrace.collect.cluster.answers import get
from mctrace.collect.cluster.capacity import too_large
from mctrace.collect.cluster.connection import connect, needs_of, nodes_alive
from mctrace.collect.config import RayConfig
from mctrace.collect.workers.shared_folder_check import answer, refuse_unshared
from mctrace.datasets.store.location import Location
from mctrace.errors import ConfigError

SMALLER = "lower ray.num_cpus or ray.num_gpus (--gpus-per-actor)"
"""remedy for actors that are too large"""
_NODE_PATIENCE = 60
"""Seconds a node may take to start a process that looks for the store or for a device."""


def check_cluster(config: RayConfig, store_uri: str, device: str | None) -> None:
    """Raises what a run on this cluster would: that it cannot be reached or hold an actor (CollectError,
    ConfigError), or that its actors would not have `device` (ModelError)."""
    connect(config)
    try:
        nodes, needs = nodes_alive(), needs_of(config, device)
        if reason := too_large(nodes, needs):
            raise ConfigError(f"{reason}: {SMALLER}")
        if len(nodes) > 1:
            refuse_blind(Location.of(store_uri), [node.node_id for node in nodes])
        if device is not None:
            asked = _check_device.options(num_cpus=needs.num_cpus, num_gpus=needs.num_gpus).remote(device)
            # On a cluster that is busy nobody may have time to answer.
            for answered in ray.wait([asked], timeout=_NODE_PATIENCE)[0]:
                get(answered)
    finally:
        ray.shutdown()


def uses_gpus(config: RayConfig, device: str | None) -> bool:
    """True where actors of this cluster would measure on GPUs. Raises CollectError when there is none."""
    connect(config)
    try:
        return needs_of(config, device).num_gpus > 0
    finally:
        ray.shutdown()


def refuse_blind(store: Location, node_ids: Iterable[str]) -> None:
    """Raises ConfigError for nodes that do not see a store in a local folder as this one does."""
    if store.is_local:
        refuse_unshared(Path(store.root), node_ids, ask_nodes)


def ask_nodes(place: Path, nodes: Iterable[str]) -> None:
    """Have every node answer the file at `place`."""
    answers = [
        _answer.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            place, node
        )
        for node in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=_NODE_PATIENCE)


@ray.remote  # type: ignore[untyped-decorator]
def _check_device(device: str) -> None:
    resolve_device(device)


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _answer(place: Path, node: str) -> None:
    answer(place, node)
