"""Telemetry sinks, histograms, resumed runs, and the alert for a wrong sign."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from mctrace.errors import ConfigError
from mctrace.train.loop.diagnostics import batch_diagnostics, histogram
from mctrace.train.loop.sign_alert import SignAlert
from mctrace.train.loop.telemetry import (
    Histogram,
    JsonlSink,
    TensorBoardSink,
    TrackioSink,
    WandbSink,
    shown_names,
)
from mctrace.train.objectives.lensnet_gradients import Examples, ScoredExamples
from tests.train.pairs import random_pairs


def test_a_histogram_counts_every_value():
    found = histogram(torch.tensor([-1.0, 0.0, 0.0, 3.0], dtype=torch.float64))
    assert sum(found.counts) == 4
    assert (found.edges[0], found.edges[-1]) == (-1.0, 3.0)
    assert (found.total, found.squares) == (2.0, 10.0)
    assert sum(histogram(torch.zeros(3, dtype=torch.float64)).counts) == 3


def test_jsonl_holds_histograms_as_edges_and_counts(tmp_path):
    with JsonlSink(tmp_path / "m.jsonl") as sink:
        sink.write(1, "train", {"score_histogram": Histogram((0.0, 1.0, 2.0), (3, 4), 5.0, 6.0)})
    (line,) = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert line["score_histogram"] == {"edges": [0.0, 1.0, 2.0], "counts": [3.0, 4.0]}


def test_resuming_after_a_step_drops_later_and_truncated_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    with JsonlSink(path) as sink:
        for step in (2, 4, 6):
            sink.write(step, "train", {"loss": float(step)})
    path.write_text(path.read_text() + '{"step": 8, "sp')
    with JsonlSink(path, after_step=4) as sink:
        sink.write(6, "train", {"loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 2.0), (4, 4.0), (6, 0.5)]


def test_tensorboard_gets_histograms(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardSink(tmp_path) as sink:
        sink.write(5, "train", {"score_histogram": histogram(torch.arange(10.0, dtype=torch.float64))})
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Histograms("train/score_histogram")
    assert event.histogram_value.num == 10


class FakeRun:
    def __init__(self):
        self.logged, self.finished, self.summaries = [], False, {}

    def define_metric(self, name, summary):
        self.summaries[name] = summary

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_weights_and_biases_gets_everything_under_one_id(tmp_path, monkeypatch):
    run, asked = FakeRun(), []

    def init(**arguments):
        asked.append(arguments)
        return run

    fake = SimpleNamespace(init=init, Histogram=lambda np_histogram: np_histogram)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resume in (False, True):
        with WandbSink(tmp_path / "run", "offline", {"seed": 1}, resume=resume) as sink:
            sink.write(3, "train", {"loss": 0.5, "h": Histogram((0.0, 1.0), (2,), 1.0, 1.0)})
    assert run.logged[0] == (3, {"train/loss": 0.5, "train/h": ((2,), (0.0, 1.0))})
    assert run.finished
    assert [one["mode"] for one in asked] == ["offline", "offline"]
    assert asked[0]["id"] == asked[1]["id"]
    assert [one["resume"] for one in asked] == [None, "allow"]
    assert run.summaries["validation/preference_corr_mean"] == "min"


def test_weights_and_biases_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"mctrace\[wandb\]"):
        WandbSink(tmp_path, "offline", {}, resume=False)


def test_trackio_gets_every_number_under_one_name(tmp_path, monkeypatch):
    run, asked = FakeRun(), []

    def init(**arguments):
        asked.append(arguments)
        return run

    fake = SimpleNamespace(init=init, Histogram=lambda np_histogram: np_histogram)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    for _ in range(2):
        with TrackioSink(tmp_path / "run", {"seed": 1}) as sink:
            sink.write(3, "train", {"loss": 0.5, "h": Histogram((0.0, 1.0), (2,), 1.0, 1.0)})
    assert run.logged == [(3, {"train/loss": 0.5, "train/h": ((2,), (0.0, 1.0))})] * 2
    assert run.finished
    assert asked[0] == asked[1]
    assert asked[0]["name"].startswith("run-")
    assert asked[0]["resume"] == "allow"


def test_trackio_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"mctrace\[trackio\]"):
        TrackioSink(tmp_path, {})


def test_the_alert_warns_once_per_run_of_wrong_signs():
    heard = []
    alert = SignAlert(heard.append, patience=2)
    for step, value in enumerate([0.2, -0.1, 0.1, -0.1, -0.2, -0.3, 0.1, -0.1, -0.1]):
        alert.write(step, "validation", {"utility_correlation": value})
        alert.write(step, "train", {"utility_correlation": -1.0})
    assert len(heard) == 2
    assert "utility_correlation should be positive, but was -0.2 at step 4" in heard[0]


def test_a_correlation_smaller_than_asked_alerts_too():
    heard = []
    alert = SignAlert(heard.append, patience=1, least=0.05)
    alert.write(1, "validation", {"utility_correlation": 0.06})
    assert heard == []
    alert.write(2, "validation", {"utility_correlation": 0.04})
    assert "smaller than 0.05" in heard[0]


def test_training_values_are_shown_under_the_sources_names_too():
    assert shown_names("train", "L_pref") == ("train/L_pref", "mc/lens_loss")
    assert shown_names("validation", "L_pref") == ("validation/L_pref",)
    assert shown_names("train", "loss") == ("train/loss",)


def test_the_alert_knows_the_expected_sign_of_each_correlation():
    heard = []
    alert = SignAlert(heard.append, patience=1)
    alert.write(1, "validation", {"utility_correlation": 0.3, "preference_corr_mean": -0.3})
    assert heard == []
    alert.write(2, "validation", {"preference_corr_mean": 0.3})
    assert "preference_corr_mean should be negative" in heard[0]


def test_diagnostics_of_labels_and_pairs(make_batch):
    batch = make_batch(0)
    scores = batch.target_utilities * 0.5
    examples = Examples(labels=batch, pairs=random_pairs(batch))
    found = batch_diagnostics(ScoredExamples(examples, scores, scores))
    assert found["utility_correlation_min"] <= found["utility_correlation_mean"]
    assert found["utility_correlation_mean"] <= found["utility_correlation_max"]
    assert found["legality_compliance"] == 1.0
    assert sum(found["score_histogram"].counts) == int(batch.entry_mask.sum())
    assert found["score_max"] == pytest.approx(float(scores.max()))
    assert {"adv_delta_mean", "adv_delta_p95", "expansion_mass", "collapse_mass"} <= found.keys()
    assert batch_diagnostics(None) == {}


def test_jsonl_is_flushed_line_by_line(tmp_path):
    path = tmp_path / "logs" / "train.jsonl"
    with JsonlSink(path) as sink:
        sink.write(5, "train", {"loss": 0.5, "lr": 1e-4})
        sink.write(5, "validation", {"loss": math.inf})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"step": 5, "split": "train", "loss": 0.5, "lr": 1e-4},
        {"step": 5, "split": "validation", "loss": None},
    ]


def test_tensorboard_gets_every_scalar(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardSink(tmp_path) as sink:
        sink.write(5, "train", {"loss": 0.5})
        sink.write(10, "validation", {"ranking_accuracy": 0.75})
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("train/loss")[0].value == 0.5
    assert events.Scalars("validation/ranking_accuracy")[0].step == 10
