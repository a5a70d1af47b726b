"""The built wheel in an environment of its own: what it declares suffices, and all its files are in it."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.cli.flags import set_flags

ROOT = Path(__file__).parents[2]
_NOT_PACKED = ("build", "site", "demo", "runs", "gpu-kit", "tests", "*.egg-info")


def run(*command: str | Path, folder: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, env=outside
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_collects_asks_trains_and_reports(tiny_settings, tmp_path):
    sources = tmp_path / "sources"
    shutil.copytree(ROOT, sources, symlinks=True, ignore=shutil.ignore_patterns(".*", *_NOT_PACKED))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, sources, folder=tmp_path)
    (wheel,) = tmp_path.glob("mctrace-*.whl")
    shutil.rmtree(sources)

    venv.create(tmp_path / "empty", with_pip=True)
    commands = tmp_path / "empty" / "bin"
    run(
        commands / "pip", "install", "--disable-pip-version-check", "-c", ROOT / "constraints.txt",
        f"{wheel}[collect]", folder=tmp_path,
    )  # fmt: skip
    mctrace = commands / "mctrace"
    assert run(mctrace, "-V", folder=tmp_path).startswith("mctrace ")
    text = tmp_path / "text.txt"
    text.write_text("One stone fell. Two rivers met. Three birds sang of one stone.")
    page = ("--out", "text.html")
    assert "2 of 2 sentences" in run(
        mctrace, "attribute", text, "--model", tiny_settings["model.name"], *page, folder=tmp_path
    )
    run(mctrace, "init", folder=tmp_path)
    run(mctrace, "collect", "--no-ray", *set_flags(tiny_settings), folder=tmp_path)
    assert "value_by_lag" in run(mctrace, "sql", "--questions", folder=tmp_path)
    counted = run(mctrace, "sql", "--format", "csv", "select count(*) as n from labels", folder=tmp_path)
    assert int(counted.split()[-1]) > 100
    steps = set_flags({"train.optimiser.total_steps": 2, "train.optimiser.warmup_steps": 1})
    run(mctrace, "train", "--preset", "small", *steps, folder=tmp_path)
    run(mctrace, "report", "--run", "runs/lensnet", folder=tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    shutil.rmtree(tmp_path / "empty")  # over a gigabyte
