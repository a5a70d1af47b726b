"""The recipe of docs/dense.md: its commands at toy size, and the weights that the trainer takes from them."""

import json

import numpy as np
import pytest
import torch

from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from mctrace.train.config import TrainConfig
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.label_weights import action_weights
from tests.docs.pages import ROOT, commands_of

SMALLER = {"train.optimiser.total_steps": 3, "train.optimiser.warmup_steps": 1, "train.device": "cpu"}


@pytest.fixture
def collected(tmp_path, monkeypatch, call_mctrace, tiny_settings, corpus_folder):
    """A folder in which every command of the page has run, on the tiny model and short texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "texts").symlink_to(corpus_folder)
    given = {key: value for key, value in tiny_settings.items() if key != "corpus.paths"}
    del given["collect.cursors_per_trajectory"], given["collect.max_actions"]  # the recipe's own
    sets = [part for key, value in {**given, **SMALLER}.items()
            for part in ("--set", f"{key}={json.dumps(value)}")]  # fmt: skip
    for line, arguments in commands_of(ROOT / "docs" / "dense.md", "mctrace"):
        shrunk = [*sets, *(["--no-ray"] if arguments[0] == "collect" else [])]
        code, _, errors = call_mctrace(*arguments, *([] if arguments[0] == "sql" else shrunk))
        assert code == 0, f"line {line}: {errors}"
    return tmp_path


def test_the_page_leads_from_texts_to_weights_by_the_stored_calibration(collected):
    version = open_store(str(collected / "dense")).at()
    info = json.loads((collected / "runs" / "dense" / "best" / "config.json").read_text())
    assert info["training"]["objective"]["label_weights"] == "inverse_variance"
    assert TrainConfig().batch_size != info["training"]["batch_size"], "the small preset holds beside it"

    (gradient_run,) = fetch_rows(connect(version), "from runs where estimator = 'gradient'")
    residuals = {(one["action"], one["node_level"]): one["residual_variance"]
                 for one in gradient_run["calibration_strata"]}  # fmt: skip
    assert len(set(residuals.values())) > 2
    labels = fetch_rows(
        connect(version), "from labels order by snapshot_id, action desc, node_level, node_index"
    )
    assert {label["estimator"] for label in labels} == {"gradient", "exact"}
    in_dense_run = [label["estimator"] for label in labels if label["run_id"] == gradient_run["run_id"]]
    assert 0 < in_dense_run.count("exact") < in_dense_run.count("gradient"), "a fraction is exact as well"

    by_snapshot = {}
    for label in labels:
        estimated = label["estimator"] == "gradient"
        variance = residuals[label["action"], label["node_level"]] if estimated else label["stderr"] ** 2
        by_snapshot.setdefault(label["snapshot_id"], []).append(variance)
    data = open_training_data(version)
    objective = ObjectiveConfig(
        label_weights="inverse_variance", weigh_by_inclusion=False, variance_floor=2.0
    )
    for split in ("train", "validation", "test"):
        for snapshot in data.snapshots(split):
            scaled_A = np.array(by_snapshot[snapshot.snapshot_id]) / data.utility_scale**2
            weights_1A = action_weights(make_batch(data, [snapshot]), objective)
            expected_A = torch.tensor(4.0 / (4.0 + scaled_A), dtype=torch.float32)
            torch.testing.assert_close(weights_1A[0], expected_A, rtol=1e-4, atol=1e-6)
