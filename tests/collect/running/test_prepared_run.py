"""What a forecast is made of: a sample of the documents, or all where the store has some."""

import json
import shutil

import pytest

from mctrace.cli.configuration import load_config
from mctrace.collect.planning.hardware import Hardware
from mctrace.collect.running import prepared_run
from mctrace.collect.running.prepared_run import PreparedRun, prepare_run
from mctrace.collect.running.timed_forecast import (
    forecast_elsewhere,
    size_without_weights,
    time_forecast,
)
from mctrace.datasets.store.store import Store
from mctrace.errors import ConfigError
from mctrace.progress import Silent
from tests.collect.runs import tiny_run


def prepared(settings: dict[str, object], store: Store | None = None, **options: bool) -> PreparedRun:
    run = load_config(None, (), settings, {}).run_settings()
    return prepare_run(run, None, store, Silent(), lambda *_: None, **options)


@pytest.fixture
def few_at_once(monkeypatch):
    """Samples of four documents, taken before the stream has planned more."""
    monkeypatch.setattr(prepared_run, "MOST_SAMPLED", 4)


def test_a_sample_stands_for_the_corpus(few_at_once, tiny_settings):
    sample = prepared(tiny_settings)
    assert (len(sample.plan.documents), sample.share) == (4, pytest.approx(4 / 14))
    run = load_config(None, (), tiny_settings, {}).run_settings()
    elsewhere = forecast_elsewhere(sample, run, Hardware(1.0), None)
    assert elsewhere is not None
    assert elsewhere.forecast.num_trajectories == pytest.approx(28, abs=2)
    assert elsewhere.exact_flops is None


def test_what_a_store_has_of_it_is_found_by_planning_all(few_at_once, tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 5})
    run.measure()
    whole = prepared(tiny_settings, run.store)
    assert (len(whole.plan.documents), whole.share) == (14, 1.0)
    assert whole.plan.num_done(run.store) >= 1


def test_a_window_as_wide_as_the_model_allows_is_planned_and_named(tiny_settings):
    wide = {**tiny_settings, "corpus.max_tokens": 2000, "collect.window": 4096}
    fitted = prepared(wide)
    positions = fitted.source.max_positions
    assert fitted.window == positions - 2 * 4 - 16
    assert max(unit.trajectory.num_positions for unit in fitted.plan.units) <= positions
    assert prepared(tiny_settings).window is None


def test_bytes_are_those_that_a_run_keeps(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path)
    planned, settings = prepared(tiny_settings), run.config.run_settings()
    timed = time_forecast(planned, settings, run.config.ray, run.store.location.uri, None)
    assert timed is not None
    kept = run.measure().num_bytes
    assert timed.forecast.num_bytes == pytest.approx(kept, rel=0.2)


def test_other_hardware_is_forecast_without_weights(tiny_settings, tiny_model_folder, tmp_path):
    folder = tmp_path / "configuration"
    shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    settings = {**tiny_settings, "model.name": str(folder)}
    here, there = prepared(tiny_settings), prepared(settings, needs_weights=False)
    run = load_config(None, (), settings, {}).run_settings()
    hardware = Hardware(gpu_tflops=989, nodes=8, gpus=8, gpus_per_actor=4, utilisation=0.3)
    found = forecast_elsewhere(there, run, hardware, None)
    assert found is not None
    assert (found.num_workers, found.flops_per_second) == (16, 989e12 * 0.3)
    assert found.forecast.seconds == pytest.approx(found.forecast.flops / 16 / (989e12 * 0.3))
    assert len(there.plan.units) == len(here.plan.units)
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    assert size_without_weights(there.source).attention_width % layers == 0


def test_an_actor_is_of_one_node():
    assert Hardware(1.0, nodes=2, gpus=8, gpus_per_actor=0.5).num_actors == 32
    assert Hardware(1.0, gpus_per_actor=0.5).flops_per_second == 0.4 * 0.5e12
    with pytest.raises(ConfigError, match="fits on no node of 8"):
        Hardware(1.0, nodes=2, gpus=8, gpus_per_actor=16)
