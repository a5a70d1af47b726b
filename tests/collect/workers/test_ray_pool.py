"""The same run on real Ray actors, one of which is killed while it works."""

from functools import partial

import pytest
import ray

from mctrace.collect.config import RayConfig
from mctrace.collect.workers import cluster_checks, shared_folder_check
from mctrace.collect.workers.cluster_checks import check_cluster
from mctrace.collect.workers.ray_pool import RayPool
from mctrace.errors import ConfigError, ModelError
from mctrace.progress import Silent
from tests.collect.runs import tiny_run

pytestmark = pytest.mark.slow


class KillAnActor(Silent):
    """Kills the first actor as soon as something is committed."""

    def __init__(self) -> None:
        self.killed = 0
        self.workers: RayPool | None = None
        self._measures = False

    def start(self, label: str, total: float | None, unit: str) -> None:
        self._measures = label == "measuring"

    def start_workers(self, config: RayConfig, context) -> RayPool:
        self.workers = RayPool(context, config)
        return self.workers

    def advance(self, amount: float = 1, note: str = "") -> None:
        if self._measures and not self.killed:
            assert self.workers is not None
            ray.kill(self.workers._group.ready()[0].actor)
            self.killed += 1


def test_a_killed_actor_costs_only_what_it_had_in_flight(tiny_settings, tmp_path):
    by_ray = tiny_run(tiny_settings, tmp_path / "ray", **{"corpus.limit": 6})
    alone = tiny_run(tiny_settings, tmp_path / "alone", **{"corpus.limit": 6})
    alone.measure()
    killer = KillAnActor()
    config = RayConfig(actors=2, num_cpus=1)
    summary = by_ray.measure(partial(killer.start_workers, config), killer)
    assert killer.killed == 1
    assert by_ray.plan.missing(by_ray.store) == []
    assert summary.num_measured == len(by_ray.plan.units)
    assert by_ray.labels() == pytest.approx(alone.labels(), abs=1e-5)
    assert not ray.is_initialized()


def test_an_actor_that_dies_before_it_measured_anything_is_replaced(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})

    def start(context) -> RayPool:
        workers = RayPool(context, RayConfig(actors=1, num_cpus=1))
        ray.kill(workers._group.ready()[0].actor)
        assert workers.write_embeddings().kind == "embeddings"
        ray.kill(workers._group.ready()[0].actor)
        return workers

    run.measure(start)
    assert run.plan.missing(run.store) == []


def test_an_item_whose_actor_dies_as_often_as_it_may_is_quarantined(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    killer = KillAnActor()
    config = RayConfig(actors=1, num_cpus=1, max_attempts=1)
    summary = run.measure(partial(killer.start_workers, config), killer)
    assert summary.num_quarantined == len(run.plan.missing(run.store)) == 1


def test_an_actor_that_this_machine_has_no_room_for_is_refused(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    config = RayConfig(actors=1, num_cpus=1, num_gpus=64)
    with pytest.raises(ConfigError, match=r"no node of 1 has 64 GPU and 1 CPU .*--gpus-per-actor"):
        run.measure(lambda context: RayPool(context, config))


@pytest.fixture
def cluster():
    """A running cluster of this test's own, on this machine; more nodes can be added."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_run_joins_a_cluster_by_address_and_uses_a_folder_that_its_nodes_share(
    cluster, tiny_settings, tmp_path, monkeypatch
):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})
    config = RayConfig(address=cluster.address, actors=1, num_cpus=1)
    summary = run.measure(lambda context: RayPool(context, config))
    assert summary.num_measured == len(run.plan.units)

    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    more = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    version = more.store.at().version
    with monkeypatch.context() as patch:
        patch.setattr(shared_folder_check, "_PATIENCE", 0.3)
        patch.setattr(cluster_checks, "ask_nodes", lambda place, nodes: None)  # nodes that see nothing
        with pytest.raises(ConfigError, match=r"2 nodes and 2 of them.*--store"):
            more.measure(lambda context: RayPool(context, config))
    assert more.store.at().version == version

    more.measure(lambda context: RayPool(context, RayConfig(address=cluster.address, actors=2, num_cpus=1)))
    assert more.plan.missing(more.store) == []
    assert list((tmp_path / "store/staging").iterdir()) == []


def test_a_cluster_is_asked_for_a_device_without_starting_an_actor(cluster):
    config = RayConfig(address=cluster.address, actors=1, num_cpus=1)
    check_cluster(config, "memory://store", "cpu")
    with pytest.raises(ModelError, match="cuda:7"):
        check_cluster(config, "memory://store", "cuda:7")
    with pytest.raises(ConfigError, match=r"no node of 1 has 9 CPU"):
        check_cluster(RayConfig(address=cluster.address, num_cpus=9), "memory://store", "cpu")
    assert not ray.is_initialized()
