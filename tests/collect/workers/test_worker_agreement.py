"""Workers that measure something else are found before a run measures anything, and named."""

import math
from dataclasses import replace

import pytest

from mctrace.collect.config import RayConfig
from mctrace.collect.measuring.worker_probe import Probe, largest_difference, measure_probe
from mctrace.collect.workers.ray_pool import RayPool
from mctrace.collect.workers.worker import RunContext
from mctrace.collect.workers.worker_actor import WorkerActor
from mctrace.collect.workers.worker_agreement import TOLERANCE, NamedProbe, agree_on_probe
from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.errors import CollectError
from mctrace.gists.network.gistnet import MeanGistNet
from tests.collect.runs import tiny_run
from tests.models import tiny_model

FEW = {"corpus.limit": 3}
PROBE = Probe(4.5, tuple(i / 100 for i in range(12)), (0.1, 0.2, 0.3, 0.4), 1e-6, "host, cpu")


def perturbed(context: RunContext) -> InProcessPool:
    """One layer's weights are others than the files say: much, since random ones hardly matter to a loss."""
    workers = InProcessPool(context)
    workers._worker._model.network.model.layers[1].mlp.down_proj.weight.mul_(3)
    return workers


def nothing_was_measured(run) -> bool:
    return not [c for c in run.store.at().parts if c.part.kind in ("trajectory", "document")]


def test_the_probe_repeats_and_differs_for_other_weights():
    def probe(model, tokenizer_hash="t", block_size=4):
        return measure_probe(model, MeanGistNet(), tokenizer_hash, block_size)

    model = tiny_model()
    assert probe(model) == probe(tiny_model())
    assert len(probe(model).delta_nll) == 12
    assert abs(probe(model).no_op) < 1e-5
    assert probe(model).values != probe(model, tokenizer_hash="another").values
    for parameter in model.network.parameters():
        before = probe(model).values
        parameter.data = parameter.data + 0.02 * parameter.data.std().nan_to_num(0) + 1e-3
        assert largest_difference(before, probe(model).values) > TOLERANCE["float32"]


def named(*changes: dict[str, object]) -> list[NamedProbe]:
    return [
        NamedProbe(f"actor {i} of node n{i}", replace(PROBE, where=f"host{i}, cuda:0", **change))
        for i, change in enumerate(changes)
    ]


def test_workers_that_agree_are_one():
    agreed = agree_on_probe(named({}, {"nll": 4.5 + 5e-5}, {}), "float32")
    assert agreed.probe.nll == 4.5
    assert agreed.largest_difference == pytest.approx(5e-5)
    assert agreed.tolerance == TOLERANCE["float32"] + 2 * PROBE.no_op
    agreed.check(named({"nll": 4.5 - 5e-5})[0])


@pytest.mark.parametrize(
    ("change", "by"),
    [
        ({"nll": 4.6}, "0.1"),
        ({"delta_nll": (*PROBE.delta_nll[:-1], 0.5)}, "0.39"),
        ({"gists": (0.1, 0.2, 0.3, 0.7)}, "0.3"),
        ({"gists": (0.1, 0.2, 0.3, math.nan)}, "inf"),
    ],
)
def test_who_disagrees_is_named_with_node_host_device_and_amount(change, by):
    with pytest.raises(CollectError) as refused:
        agree_on_probe(named({}, {}, change, {}), "float32")
    assert "1 of 4 workers differ from the others' median" in str(refused.value)
    assert f"actor 2 of node n2 on host2, cuda:0 by {by}" in str(refused.value)
    assert "actor 1" not in str(refused.value)
    with pytest.raises(CollectError, match=f"actor 0 .*host0.* and actor 1 .*host1.* differ by {by}"):
        agree_on_probe(named({}, change), "float32")
    with pytest.raises(CollectError, match=f"actor 0 .* joined the run and differs .* by {by}"):
        agree_on_probe(named({}, {}), "float32").check(named(change)[0])


def test_half_precision_may_differ_by_more():
    pair = named({}, {"nll": 4.6})
    assert agree_on_probe(pair, "bfloat16").largest_difference == pytest.approx(0.1)
    with pytest.raises(CollectError):
        agree_on_probe(pair, "float16")


def test_a_noisy_worker_does_not_excuse_itself():
    with pytest.raises(CollectError):
        agree_on_probe(named({}, {"nll": 4.6, "no_op": 0.5}), "float32")


def test_a_loss_that_is_not_finite_is_no_agreement():
    with pytest.raises(CollectError, match=r"not finite .*host1, cuda:0.*model\.dtype = float32"):
        agree_on_probe(named({}, {"nll": math.nan}), "float32")


def test_every_run_records_its_workers_agreement(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **FEW)
    run.measure()
    (row,) = fetch_rows(connect(run.store.at()), "select probe from runs")
    assert len(row["probe"]["delta_nll"]) == 12
    assert row["probe"]["gist_block_size"] == 4
    assert row["probe"]["largest_difference"] == 0
    assert len(row["probe"]["workers"]) == 1


def test_a_later_run_with_other_weights_under_the_same_hash_is_refused(tiny_settings, tmp_path):
    tiny_run(tiny_settings, tmp_path, **FEW).measure()
    more = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 5})
    version = more.store.at().version
    with pytest.raises(CollectError, match=r"run \S+ of this store, on .*cpu, had the same model hash and"):
        more.measure(perturbed)
    assert more.store.at().version == version
    more.measure()
    assert more.plan.missing(more.store) == []


def test_a_run_after_one_without_a_probe_goes_on(tiny_settings, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("mctrace.collect.workers.worker_agreement.WorkerAgreement.row", lambda *_: None)
        tiny_run(tiny_settings, tmp_path, **FEW).measure()
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    run.measure()
    probes = fetch_rows(connect(run.store.at()), "select probe from runs order by started_at")
    assert [row["probe"] is None for row in probes] == [True, False]


class PerturbedLater(RayPool):
    """Real actors, of which those from the `first` on that are started have other weights."""

    def __init__(self, context: RunContext, config: RayConfig, first: int) -> None:
        self._num_asked, self._num_right = 0, first
        super().__init__(context, config)

    def _start_actor(self):
        self._num_asked += 1
        if self._num_asked <= self._num_right:
            return super()._start_actor()
        return perturbed_actor().remote(self._context, 1)


def perturbed_actor():
    """Defined here, so that it travels to the actor's process by value."""
    import ray

    class Perturbed(WorkerActor):
        def join(self):
            from mctrace.collect.workers import worker_actor as cluster

            class Other(cluster.Worker):
                def __init__(self, *arguments):
                    super().__init__(*arguments)
                    self._model.network.model.layers[1].mlp.down_proj.weight.data.mul_(3)

            cluster.Worker = Other
            return super().join()

    return ray.remote(num_cpus=1)(Perturbed)


class Together(PerturbedLater):
    """Begins when both actors are ready, where a run would begin with one."""

    def probes(self):
        while self.num_workers < 2:
            for member, _ in self._group.answers(1):
                self._group.welcome(member)
        return super().probes()


@pytest.mark.slow
def test_of_two_actors_that_differ_both_are_named_and_nothing_is_measured(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **FEW)
    with pytest.raises(
        CollectError, match=r"actor 0 of node \w+ on .* and actor 1 of node \w+ on .* differ by"
    ):
        run.measure(lambda context: Together(context, RayConfig(actors=2), first=1))
    assert nothing_was_measured(run)


@pytest.mark.slow
def test_an_actor_that_joins_later_gets_no_work_before_its_probe_agrees(tiny_settings, tmp_path):
    import ray

    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 6})

    class Killing(PerturbedLater):
        def write_embeddings(self):
            part = super().write_embeddings()
            ray.kill(self._group.ready()[0].actor)  # before it measures; its successor is another
            return part

    with pytest.raises(CollectError, match=r"actor 1 .* joined the run and differs from"):
        run.measure(lambda context: Killing(context, RayConfig(actors=1), first=1))
    assert nothing_was_measured(run)
