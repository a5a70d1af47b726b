"""The quick form of `make chaos`: every scene runs, and finds nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.findings import BAD


@pytest.mark.slow
def test_every_scene_at_small_size_finds_nothing():
    command = [sys.executable, "-m", "tests.chaos", "--quick"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1800, check=False)
    output = f"{ended.stdout}\n{ended.stderr}"
    found = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0, output
    assert [found[name] for name in BAD] == [0] * len(BAD)
    assert found["kills"] == 10
    assert len(found["kills_by_command"]) == 9
    assert found["skipped"].keys() <= {"disks"}
    assert found["damages_tried"] > 100
    assert found["jail_attempts"] > 250
    assert found["bad_inputs"] > 50
