"""Benchmarks and experiments run for hours; here they are only imported, so that renames reach them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["benchmarks", "experiments"])
def test_every_module_imports(folder: str) -> None:
    names = sorted(path.stem for path in ROOT.joinpath(folder).glob("*.py"))
    assert len(names) > 5
    imports = "; ".join(f"import {folder}.{name}" for name in names)
    command = [sys.executable, "-c", imports]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
