"""Actors on GPUs that nobody here has, and clusters that want a token: what is refused, by the words."""

import os
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError, RaySystemError

from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.cluster import connection
from mctrace.collect.cluster.capacity import ClusterNode, Needs
from mctrace.collect.cluster.connection import connect, needs_of
from mctrace.collect.config import RayConfig
from mctrace.collect.measuring.worker_probe import Probe
from mctrace.collect.workers import actor_group
from mctrace.collect.workers.actor_group import ActorGroup, Member
from mctrace.collect.workers.worker_actor import Joined
from mctrace.errors import CollectError, ConfigError, ModelError

PROBE = Probe(1.0, (0.0,), (0.0,), 0.0, "host, cuda:0 (NVIDIA H100)")


def group_of(num_gpus: float, *gpus: str) -> ActorGroup:
    """A group whose members hold models on these GPUs, one each."""
    group = object.__new__(ActorGroup)
    group.needs, group._num_cancelled = Needs(1, num_gpus), 0
    group._nodes = [ClusterNode("0123456789abcdef", "host", {"GPU": 8}, {})]
    group.members = {
        slot: Member(
            slot, None, None, joined=Joined(group._nodes[0].node_id, ModelSize(1, 1, 1), 1, PROBE, (gpu,))
        )
        for slot, gpu in enumerate(gpus)
    }
    return group


@pytest.mark.parametrize(
    ("num_gpus", "gpus", "is_refused"),
    [
        (1, ("a", "b"), False),
        (0, ("a", "a"), True),
        (1, ("a", "a"), True),
        (0.5, ("a", "a"), False),
        (0.5, ("a", "a", "a"), True),
        (0.25, ("a", "a", "a", "a"), False),
    ],
)
def test_actors_share_a_gpu_only_as_far_as_they_have_asked_to(num_gpus, gpus, is_refused):
    group = group_of(num_gpus, *gpus)
    last = group.ready()[-1].joined
    if is_refused:
        with pytest.raises(
            ConfigError, match=r"actors on host \(node 0123.* share .*H100.*--gpus-per-actor 1"
        ):
            group._refuse_shared_gpu(last)
    else:
        group._refuse_shared_gpu(last)


def test_a_node_that_cannot_load_the_model_is_left_out_and_the_last_one_ends_the_run(monkeypatch, caplog):
    killed = []
    monkeypatch.setattr(actor_group.ray, "kill", killed.append)
    group = group_of(0)
    group._nodes = [ClusterNode(f"{i}" * 20, f"host{i}", {"CPU": 1}, {}) for i in range(2)]
    group.left_out = {}
    failed = Member(0, "actor 0", None, node_id="0" * 20)
    group.members = {1: Member(1, "actor 1", None), 2: Member(2, "actor 2", None, node_id="1" * 20)}
    group._leave_out(failed, ModelError("unknown model '/models/a'"))
    assert "host0 (node 000000000000): unknown model '/models/a'; the run goes on without" in caplog.text
    assert list(group.left_out) == ["0" * 20]
    assert killed == ["actor 1"], "it may wait for the node that is left out"
    with pytest.raises(ModelError, match=r"^host1 \(node 1+\): unknown model"):
        group._leave_out(group.members[2], ModelError("unknown model '/models/a'"))


def test_an_actor_that_ray_cancels_is_asked_for_again_and_not_at_once(monkeypatch):
    clock = SimpleNamespace(now=100.0)

    class CancelledError(RayActorError):
        def __str__(self) -> str:
            return "The actor never ran - it was cancelled before it started running."

    def cancelled(reference):
        raise CancelledError

    def refuse(actor):
        raise RaySystemError("Actor creation cancelled.")

    monkeypatch.setattr(actor_group.ray, "kill", refuse)
    monkeypatch.setattr(actor_group, "get", cancelled)
    monkeypatch.setattr(actor_group, "monotonic", lambda: clock.now)
    group = group_of(0)
    group._config, group._paused_until, group._num_started, group._looked = RayConfig(), 0.0, 1, 100.0
    group._start = lambda: SimpleNamespace(locate=SimpleNamespace(remote=lambda: "coming"))
    group.members = {0: Member(0, "actor 0", "coming")}
    group.welcome(group.members[0])
    group.grow()
    assert not group.members
    clock.now += actor_group.TICK
    group._looked = clock.now
    group.grow()
    assert list(group.members) == [1]


@pytest.mark.parametrize(
    ("num_gpus", "device", "expected"),
    [
        (None, "auto", 1),
        (None, "cuda", 1),
        (None, None, 1),
        (None, "cpu", 0),
        (0.5, "auto", 0.5),
        (0, "auto", 0),
    ],
)
def test_an_actor_has_one_gpu_where_nodes_have_any(monkeypatch, num_gpus, device, expected):
    monkeypatch.setattr(connection, "nodes_alive", lambda: [ClusterNode("n", "h", {"CPU": 8, "GPU": 4}, {})])
    assert needs_of(RayConfig(num_gpus=num_gpus), device).num_gpus == expected
    monkeypatch.setattr(connection, "nodes_alive", lambda: [ClusterNode("n", "h", {"CPU": 8}, {})])
    assert needs_of(RayConfig(num_gpus=num_gpus), device).num_gpus == (num_gpus or 0)


def test_a_cluster_that_wants_a_token_says_so_and_its_warnings_are_not_shown(monkeypatch, capfd):
    """As Ray 2.60 does: a warning a second from its C++ part, then an error without the reason."""

    def init(**_: object) -> None:
        os.write(2, b"W gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken: token is missing\n")
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr(connection, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    monkeypatch.setattr(connection, "_knock", lambda address: None)
    with pytest.raises(
        CollectError, match=r"wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    ) as refused:
        connect(RayConfig(address="10.0.0.1:6379"))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
