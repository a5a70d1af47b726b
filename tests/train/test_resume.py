"""A killed run resumes to identical weights, losses and telemetry lines."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mctrace.cli import app
from tests.train.stores import learnable_store

STEPS, SAVE = 24, 5
SETTINGS = {
    "train.batch_size": 3, "train.eval_interval": 6, "train.save_interval": SAVE, "train.log_interval": 4,
    "train.seed": 3, "train.network.d_lens": 16, "train.network.num_heads": 2,
    "train.network.dropout": 0.2, "train.objective.rank_pairs": "sampled", "train.objective.rank_partners": 3,
    "train.objective.preference.kl_weight": 0.1, "train.objective.preference.budget_smooth_weight": 0.1,
    "train.optimiser.learning_rate": 1e-3, "train.optimiser.warmup_steps": 4,
    "train.optimiser.total_steps": STEPS,
}  # fmt: skip
SLOW = """
import sys, time
from mctrace.cli import app
from mctrace.train.objectives.lensnet_gradients import LensNetGradients
step = LensNetGradients.__call__
def slow(self, parts):
    time.sleep(0.1)
    return step(self, parts)
LensNetGradients.__call__ = slow
app.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    learnable_store(folder / "store", num_variants=3)
    return folder


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    objective = [
        "--objective",
        "mixed",
        "--target",
        "priced",
        "--store",
        str(folder / "store"),
        "--out",
        str(folder / out),
    ]
    return ["train", *objective, *sets, *more]


def train(folder: Path, out: str, *more: str, slowly: bool = False) -> subprocess.Popen[str]:
    code = SLOW if slowly else "from mctrace.cli import app; app.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments(folder, out, *more)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(folder) -> Path:
    finished(train(folder, "undisturbed"))
    return folder / "undisturbed"


def lines_of(run: Path) -> list[dict[str, object]]:
    """Telemetry lines without timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("steps_per_s", "read_share")} for line in lines]


def assert_same_run(run: Path, other: Path) -> None:
    assert lines_of(run) == lines_of(other)
    for name in ("best", f"step_{STEPS:07d}"):
        for file in ("model.safetensors", "training_state.safetensors"):
            if not (other / name / file).exists():
                assert name == "best"
                continue
            one, two = load_file(run / name / file), load_file(other / name / file)
            assert one.keys() == two.keys()
            assert all(one[key].equal(two[key]) for key in one), (name, file)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (run / f"step_{step:07d}" / "config.json").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_resumes_bit_for_bit(folder, undisturbed):
    process = train(folder, "killed", slowly=True)
    chance = random.Random(7)
    wait_for_step(folder / "killed", SAVE * chance.randint(1, 3), process)
    time.sleep(chance.random() * 0.4)
    process.kill()
    process.communicate()
    assert not (folder / "killed" / f"step_{STEPS:07d}").exists()
    output = finished(train(folder, "killed", "--resume"))
    assert "Going on after step" in output
    assert_same_run(folder / "killed", undisturbed)


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly_and_the_run_resumes(folder, undisturbed):
    process = train(folder, "terminated", slowly=True)
    wait_for_step(folder / "terminated", SAVE, process)
    process.send_signal(signal.SIGTERM)
    output = finished(process)
    assert "SIGTERM: saving" in output
    assert "--resume goes on" in output
    stopped = max(int(path.name[5:]) for path in (folder / "terminated").glob("step_*"))
    assert SAVE <= stopped < STEPS
    finished(train(folder, "terminated", "--resume"))
    assert_same_run(folder / "terminated", undisturbed)


def test_a_finished_run_has_nothing_left_to_do(folder, undisturbed, run_here):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    output = run_here(*arguments(folder, "undisturbed", "--resume", "--set", "train.batch_size=9"))
    assert "The run's own configuration stands: train.batch_size is 3, not 9" in output.replace("\n", " ")
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_resuming_without_a_run_starts_one(folder, run_here):
    output = run_here(*arguments(folder, "fresh", "--resume", "--set", "train.optimiser.total_steps=4"))
    assert "Going on" not in output
    assert (folder / "fresh" / "step_0000004").exists()


@pytest.fixture
def run_here(monkeypatch, capsys):
    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["mctrace", *words])
        with suppress(SystemExit):
            app.main()
        output, errors = capsys.readouterr()
        assert not errors
        return output

    return run
