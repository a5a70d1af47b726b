"""Data parallel: two gloo processes take the same steps as one with the same global batch."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mctrace.errors import ConfigError, InputError
from mctrace.train.data_parallel import ProcessGroup, process_group
from tests.train.stores import learnable_store

pytestmark = pytest.mark.slow

SETTINGS = {
    "train.batch_size": 5, "train.eval_interval": 4, "train.save_interval": 4, "train.log_interval": 1,
    "train.network.d_lens": 16, "train.network.num_heads": 2, "train.network.dropout": 0.0,
    "train.objective.preference.kl_weight": 0.1, "train.objective.preference.budget_smooth_weight": 0.1,
    "train.optimiser.learning_rate": 1e-3, "train.optimiser.warmup_steps": 2,
    "train.optimiser.total_steps": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    # 18 training snapshots: the last batch of an epoch has 3 for 2 workers
    learnable_store(folder / "store", num_variants=2)
    return folder


def train(folder: Path, out: str, launcher: list[str], *more: str) -> list[dict[str, float]]:
    mctrace = str(Path(sys.executable).with_name("mctrace"))
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    where = [
        "--store",
        str(folder / "store"),
        "--out",
        str(folder / out),
        "--objective",
        "mixed",
        "--target",
        "priced",
    ]
    done = subprocess.run(
        [*launcher, mctrace, "train", *where, *sets, *more],
        capture_output=True, text=True, check=False, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]
    terms = ("loss", "L_reg", "L_rank", "L_budget", "L_illegal", "L_pref", "L_pref_rank", "L_kl")
    return [{name: line[name] for name in terms} for line in lines if line["split"] == "train"]


TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--no-python", "--nproc-per-node", "2"]
TORCHRUN += ["--standalone"]


def test_two_processes_take_the_steps_of_one(folder):
    alone = train(folder, "one", [])
    together = train(folder, "two", TORCHRUN)
    assert len(alone) == len(together) == 8
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    first, second = (load_file(folder / name / "best/model.safetensors") for name in ("one", "two"))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)
    state = load_file(folder / "two/step_0000008/training_state.safetensors")
    assert {"chance/0/cpu", "chance/1/cpu"} <= state.keys()


def test_a_group_of_one_needs_no_communication():
    workers = ProcessGroup()
    assert workers.sum_scalars({"a": torch.tensor(2.0)}) == {"a": torch.tensor(2.0)}
    assert workers.all_gather(3) == [3]
    assert workers.any(True)


class OneOfMany(ProcessGroup):
    """A worker among threads, on machines that have names."""

    def gathering(self, host, board):
        object.__setattr__(self, "_board", board)
        object.__setattr__(self, "host", host)
        return self

    def all_gather(self, value):
        values, barrier = self._board
        values[self.rank] = value
        barrier.wait()
        found = list(values)
        barrier.wait()
        return found


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_made_once_a_machine_is_used_by_all_before_it_goes(monkeypatch, fails):
    hosts, events = ["a", "b", "a"], []
    board = ([None] * 3, threading.Barrier(3, timeout=20))
    workers = [OneOfMany(rank, 3).gathering(host, board) for rank, host in enumerate(hosts)]
    here = threading.local()
    monkeypatch.setattr("mctrace.train.data_parallel.socket.gethostname", lambda: here.host)

    def work(worker):
        here.host = worker.host

        @contextmanager
        def make():
            if fails and worker.rank == 1:
                raise InputError("no labels")
            events.append(f"made on {worker.host}")
            yield f"folder of {worker.host}"
            events.append(f"gone on {worker.host}")

        def use(folder):
            events.append("used")
            return worker.rank, folder

        try:
            return worker.once_per_machine(make, use)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, workers))
    if fails:
        assert found == ["no labels"] * 3
        assert "used" not in events
    else:
        assert found == [(0, "folder of a"), (1, "folder of b"), (2, "folder of a")]
        assert sorted(events[:2]) == ["made on a", "made on b"]
        assert events[2:5] == ["used"] * 3
        assert sorted(events[5:]) == ["gone on a", "gone on b"]


def test_a_world_size_without_addresses_says_to_use_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match=r"MASTER_ADDR.*torchrun"), process_group():
        pass
