"""Models on several devices: the same labels from a `device_map` and from shards in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import resolve_model
from mctrace.collect.planning.edits import action_edit
from tests.collect.measuring.test_evaluator import PROTECTED_TAIL, make_document, measure, mixed_trajectory

ROOT = Path(__file__).parents[3]


def labels_of(folder: Path, device_map: str | None = None) -> list[torch.Tensor]:
    model = load_base_model(resolve_model(str(folder)), "float32", "cpu", device_map)
    trajectory = mixed_trajectory()
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    return measure(model, make_document(model), trajectory, edits, batch_tokens=64)


def test_a_device_map_changes_no_label(tiny_model_folder):
    plain, placed = labels_of(tiny_model_folder), labels_of(tiny_model_folder, "auto")
    assert len(plain) > 10
    torch.testing.assert_close(placed, plain, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_with_half_of_each_layer_measure_the_same_labels(tiny_model_folder, tmp_path):
    answer = tmp_path / "labels.pt"
    script = Path(__file__).with_name("tensor_parallel_labels.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", str(script), str(tiny_model_folder), "2", str(answer)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(torch.load(answer), labels_of(tiny_model_folder), atol=1e-5, rtol=0)
