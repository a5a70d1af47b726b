"""Connection to a Ray cluster, or to one that is started on this machine, and the nodes that it has.

Whatever keeps a run from its cluster is one line: nobody listens, a token is wanted, Ray does not start.
"""

import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private import worker as ray_driver
from ray._private.state import available_resources_per_node

from mctrace.collect.cluster.capacity import ClusterNode, Needs
from mctrace.collect.config import RayConfig
from mctrace.errors import CollectError, brief

_PATIENCE = 10
"""Seconds a cluster may take to take a connection."""
_log = logging.getLogger(__name__)


def connect(config: RayConfig) -> None:
    """Start or join the configured cluster. Raises CollectError when there is none."""
    terminate = signal.getsignal(signal.SIGTERM)
    # Ray prints what raylets say, their last log lines included, into the middle of a run's own lines.
    ray_driver.print_to_stdstream = _keep_in_log
    _start(config)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray's own would end us without a last commit


def nodes_alive() -> list[ClusterNode]:
    """Nodes of the connected cluster with what they have and what of it is free."""
    available = available_resources_per_node()
    return [
        ClusterNode(
            node["NodeID"], node["NodeManagerHostname"], node["Resources"], available.get(node["NodeID"], {})
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def needs_of(config: RayConfig, device: str | None) -> Needs:
    """Resources of one actor: unless told otherwise, one GPU where nodes have any and `device` is no CPU.

    `device` is None for a model that is spread over devices.
    """
    num_gpus = config.num_gpus
    if num_gpus is None:
        has_gpus = any(node.total.get("GPU") for node in nodes_alive())
        num_gpus = 1.0 if has_gpus and device != "cpu" else 0.0
    return Needs(config.num_cpus, num_gpus)


def _keep_in_log(data: dict[str, Any], *_: object, **__: object) -> None:
    _log.debug("Ray: %s", " ".join(" ".join(map(str, data.get("lines", ()))).split()))


def _start(config: RayConfig) -> None:
    local = config.address == "local"
    said = ""
    try:
        if not local and config.address != "auto":
            _knock(config.address)
        with _standard_error() as kept:
            try:
                ray.init(
                    address=config.address,
                    num_cpus=_local_cpus(config) if local else None,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            finally:
                said = kept()
    except Exception as error:  # a node that is too slow raises Exception itself
        ray.shutdown()
        if local:
            raise CollectError(
                f"Ray does not start on this machine ({brief(error)}): it may be too busy or short of "
                "memory; try again, or measure without Ray (collect --no-ray)"
            ) from error
        if re.search(r"AuthenticationError|AuthToken|Unauthenticated", f"{type(error).__name__} {said}"):
            raise CollectError(
                f"the Ray cluster at {config.address!r} wants a token: set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN to the one it was started with (`ray get-auth-token` there shows it), here "
                "and on every node"
            ) from error
        raise CollectError(
            f"no Ray cluster at {config.address!r} ({brief(error)}): give --ray-address HOST:PORT of one "
            "that runs (`ray status` there says so), or measure here (--ray-address local, --no-ray)"
        ) from error


@contextlib.contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """Keeps what is written to standard error, by Ray's C++ part too: a warning a second while it retries.

    The value returns what was written so far.
    """
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            yield lambda: os.pread(file.fileno(), 2**20, 0).decode(errors="replace")
    finally:
        os.dup2(before, 2)
        os.close(before)


def _local_cpus(config: RayConfig) -> int | None:
    """CPUs that Ray is told this machine has: room for every actor asked for; None: those it has."""
    return None if config.actors == "auto" else math.ceil(config.actors * config.num_cpus)


def _knock(address: str) -> None:
    """Raises OSError or ValueError when nobody listens at HOST:PORT: Ray would retry for many minutes."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None or place.port is None:
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((place.hostname, place.port), timeout=_PATIENCE).close()
