"""Scenes on real clusters of several raylets: every run ends with the rows of an undisturbed one."""

import logging
import os
import time
from collections import Counter

import pytest
import ray

from mctrace.collect.config import RayConfig
from mctrace.collect.workers.ray_pool import RayPool
from mctrace.collect.workers.worker_actor import WorkerActor
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.errors import CollectError
from tests.collect.runs import tiny_run

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    """A cluster whose head only drives; nodes are added by the test."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Watched(RayPool):
    """Counts the items that each node measured."""

    def __init__(self, context, config: RayConfig, on_tick) -> None:
        self.measured: Counter[str] = Counter()
        self._on_tick = on_tick
        super().__init__(context, config)

    def _start_actor(self):
        return slow_actor().remote(self._context, 1)

    def _observe(self) -> None:
        super()._observe()
        self._on_tick()

    def _settle(self, member, reference, queue):
        for outcome in super()._settle(member, reference, queue):
            self.measured[member.node_id] += 1
            yield outcome


def slow_actor():
    """An item takes it a while, so that a node that comes finds work; by value to the actor's process."""

    class Slow(WorkerActor):
        def measure(self, item):
            time.sleep(1)
            return super().measure(item)

    return ray.remote(num_cpus=1)(Slow)


class Scene:
    """A run during which something happens to the cluster: `steps` are taken in order, each when its
    condition on the pool holds."""

    def __init__(self, config: RayConfig, *steps) -> None:
        self._config, self._steps = config, list(steps)
        self.pool: Watched | None = None

    def start_workers(self, context) -> RayPool:
        self.pool = Watched(context, self._config, self._tick)
        return self.pool

    def _tick(self) -> None:
        if self._steps and self.pool and self._steps[0][0](self.pool):
            self._steps.pop(0)[1]()

    @property
    def is_over(self) -> bool:
        return not self._steps


@pytest.fixture(scope="module")
def undisturbed(tiny_settings, tmp_path_factory):
    """Labels of all fourteen texts, measured in one process."""
    run = tiny_run(tiny_settings, tmp_path_factory.mktemp("alone"))
    run.measure()
    return run.labels()


def test_a_node_that_comes_is_used_and_one_that_leaves_for_good_costs_what_it_had_in_flight(
    cluster, tiny_settings, tmp_path, undisturbed, caplog
):
    caplog.set_level(logging.INFO, "mctrace")
    cluster.add_node(num_cpus=1)
    added = []
    run = tiny_run(tiny_settings, tmp_path)
    scene = Scene(
        RayConfig(address=cluster.address, actors=3),
        (lambda pool: pool.measured.total() >= 1, lambda: added.append(cluster.add_node(num_cpus=1))),
        (
            lambda pool: pool.measured[added[0].node_id] >= 2,
            lambda: cluster.remove_node(added[0], allow_graceful=False),
        ),
    )
    summary = run.measure(scene.start_workers)
    assert scene.is_over, "the second node was used, and lost"
    assert summary.num_quarantined == 0
    assert run.plan.missing(run.store) == []
    assert run.labels() == pytest.approx(undisturbed, abs=1e-5)
    said = caplog.text
    assert "1 of 3 actors ready; 2 starting or waiting for 1 CPU each: the cluster has 0 CPU free" in said
    assert "1 actor is lost with its node" in said
    assert "items sent elsewhere" in said


def test_a_run_whose_only_node_is_lost_waits_for_the_next_one(
    cluster, tiny_settings, tmp_path, undisturbed, caplog
):
    caplog.set_level(logging.INFO, "mctrace")
    only = cluster.add_node(num_cpus=1)
    run = tiny_run(tiny_settings, tmp_path)
    scene = Scene(
        RayConfig(address=cluster.address, actors="auto"),
        (lambda pool: pool.measured.total() >= 3, lambda: cluster.remove_node(only, allow_graceful=False)),
        (lambda _: "0 of 1 actors ready; 1 waiting" in caplog.text, lambda: cluster.add_node(num_cpus=1)),
    )
    run.measure(scene.start_workers)
    assert scene.is_over
    assert scene.pool is not None
    assert len(scene.pool.measured) == 2
    assert run.labels() == pytest.approx(undisturbed, abs=1e-5)


def test_an_actor_that_fits_on_no_single_node_is_named_and_waited_for_in_vain(
    cluster, tiny_settings, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "mctrace")
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})
    config = RayConfig(address=cluster.address, actors=1, num_cpus=2, start_timeout=2)
    why = r"no node of 3 has 2 CPU for one actor \(the largest has 1 CPU\)"
    with pytest.raises(CollectError, match=rf"within 2 s .*{why}.*lower ray\.num_cpus") as refused:
        run.measure(lambda context: RayPool(context, config))
    assert "\n" not in str(refused.value)
    assert "0 of 1 actors ready; 1 waiting for 2 CPU each: no node of 3 has 2 CPU" in caplog.text
    assert not ray.is_initialized()


def poisoned_actor(raises: str, kills: str):
    """Defined here, so that it travels to the actor's process by value."""

    class Poisoned(WorkerActor):
        def measure(self, item):
            if item.purpose == "keep" and item.document.source.endswith(raises):
                raise ValueError("a token that\nno model reads")
            if item.purpose == "keep" and item.document.source.endswith(kills):
                os._exit(1)
            return super().measure(item)

    return ray.remote(num_cpus=1)(Poisoned)


def test_items_that_raise_or_kill_are_quarantined_with_their_reason_and_the_run_goes_on(
    tiny_settings, tmp_path
):
    run = tiny_run(tiny_settings, tmp_path)
    two = sorted({run.plan.documents[unit.document_id].source for unit in run.plan.units})[-2:]
    poisoned = [u for u in run.plan.units if run.plan.documents[u.document_id].source in two]

    class Pool(RayPool):
        def _start_actor(self):
            return poisoned_actor(*two).remote(self._context, 1)

    summary = run.measure(lambda context: Pool(context, RayConfig(actors=2, max_attempts=2)))
    assert summary.num_quarantined == len(poisoned)
    assert {unit.part_id for unit in run.plan.missing(run.store)} == {unit.part_id for unit in poisoned}
    rows = fetch_rows(connect(run.store.at()), "from quarantined")
    assert {row["trajectory_id"] for row in rows} == {unit.part_id for unit in poisoned}
    by_source = {row["source"]: row for row in rows}
    assert "ValueError: a token that no model reads" in by_source[two[0]]["reason"]
    assert "its actor died" in by_source[two[1]]["reason"]
    assert {row["num_attempts"] for row in rows} == {2}

    version = run.store.at().version
    again = run.measure()
    assert (again.run_id, again.num_in_quarantine) == (None, len(poisoned))
    assert run.store.at().version == version

    retried = run.measure(retry_quarantined=True)
    assert retried.num_measured == len(poisoned)
    assert run.plan.missing(run.store) == []
    assert list(fetch_rows(connect(run.store.at()), "from quarantined")) == []
