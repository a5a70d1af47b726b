"""Endings of failed runs: one line with the cause, the place and the remedy, and a non-zero exit."""

import dataclasses
import errno
import os

import pytest
import ray
import torch

from mctrace.collect.cluster import connection
from mctrace.collect.config import RayConfig
from mctrace.collect.workers.cluster_checks import check_cluster
from mctrace.collect.workers.ray_pool import RayPool
from mctrace.collect.workers.worker_actor import WorkerActor
from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.context.shortage import shortage
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.errors import CollectError, ModelError
from tests.collect.runs import tiny_run

FEW = {"corpus.limit": 3}


class Panic(BaseException):
    """As pyo3 raises them."""


Panic.__name__ = "PanicException"
WORDS = {
    "memory": [
        MemoryError(),
        MemoryError("Unable to allocate 7.11 PiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        Panic("memory allocation of 8 bytes failed"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
    "disk space": [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/metrics.jsonl"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError("Generic LocalFileSystem error: Unable to copy: No space left on device (os error 28)"),
    ],
    "processes": [
        Panic("called `Result::unwrap()` on: failed to spawn thread"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
}


@pytest.mark.parametrize(("what", "error"), [(w, e) for w, errors in WORDS.items() for e in errors])
def test_a_shortage_in_any_library_is_reported_in_one_line(what, error):
    said = shortage(error)
    assert said is not None
    assert f"ran out of {what}" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("out of memory is only a word here"),
        KeyboardInterrupt(),
        SystemExit(1),
        FileNotFoundError(errno.ENOENT, "No such file"),
        Panic("index out of bounds"),
    ],
)
def test_other_errors_are_not_excused(error):
    assert shortage(error) is None


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(10**15)
    assert "ran out of memory" in str(shortage(failed.value))


class Poisoned(InProcessPool):
    """Finite on the probe, and nowhere else."""

    def measure(self, items):
        for item in items:
            tree = self._worker._document_tree(item.document)
            table = tree.embeddings[0] * float("nan")
            tree = dataclasses.replace(tree, embeddings=[table, *tree.embeddings[1:]])
            self._worker._tree = (item.document.document_id, tree)
            yield self._worker.measure(item)
            self._worker._tree = None


def test_a_run_in_which_no_loss_is_finite_has_failed_and_so_has_its_repetition(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **FEW)
    message = r"no trajectory has a finite loss in float32.*model\.dtype = float32"
    with pytest.raises(CollectError, match=message):
        run.measure(Poisoned)
    assert [r["outcome"] for r in fetch_rows(connect(run.store.at()), "from runs")] == ["failed"]
    assert run.plan.missing(run.store) == []
    with pytest.raises(CollectError, match=message):
        run.measure()


@pytest.mark.slow
def test_weights_that_do_not_match_reach_the_driver_from_an_actor_in_one_line(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **FEW)

    def start(context) -> RayPool:
        wrong = dataclasses.replace(context.provenance, model_hash="another")
        return RayPool(dataclasses.replace(context, provenance=wrong), RayConfig(actors=1))

    with pytest.raises(ModelError, match="has other weights here than where it was planned"):
        run.measure(start)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_an_actor_without_memory_is_one_line(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **FEW)

    class Starving(RayPool):
        def _start_actor(self):
            class Hungry(WorkerActor):
                def join(self):
                    torch.empty(10**15)

            return ray.remote(num_cpus=1)(Hungry).remote(self._context, 1)

    with pytest.raises(CollectError, match=r"a worker ran out of memory .*DefaultCPUAllocator") as refused:
        run.measure(lambda context: Starving(context, RayConfig(actors=1)))
    assert "\n" not in str(refused.value)


def raises(error: BaseException):
    def start(**_: object) -> None:
        raise error

    return start


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup.\nmore"), OSError("x")]
)
def test_when_ray_does_not_start_the_error_offers_a_run_without_it(monkeypatch, error):
    monkeypatch.setattr(connection.ray, "init", raises(error))
    with pytest.raises(CollectError, match=r"does not start on this machine .*--no-ray") as refused:
        check_cluster(RayConfig(), "store", "cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(CollectError, match=r"no Ray cluster at 'auto' .*--ray-address"):
        check_cluster(RayConfig(address="auto"), "store", "cpu")
