"""Benchmarks run for hours; that they still fit the code they time is looked at here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_benchmark_finds_what_it_times():
    names = sorted(path.stem for path in ROOT.joinpath("benchmarks").glob("*.py"))
    assert "evaluator" in names
    imports = "; ".join(f"import benchmarks.{name}" for name in names)
    command = [sys.executable, "-c", imports]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
