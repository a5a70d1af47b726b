"""The saved layout of Weights & Biases panels: what it shows is what runs log."""

import json
import sys

import pytest

from mctrace.errors import ConfigError
from mctrace.train.loop.diagnostics import batch_diagnostics
from mctrace.train.loop.telemetry import SOURCE_NAMES, shown_names
from mctrace.train.loop.wandb_panels import SECTIONS, main, workspace
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.lensnet_gradients import Examples, LensNetGradients
from tests.train.conftest import EMBEDDING_DIM, random_batch
from tests.train.pairs import random_pairs


def shown() -> list[str]:
    return [name for section in SECTIONS for panel in section.panels for name in panel.names]


def test_the_layout_shows_the_sources_names_and_no_name_twice_in_a_section():
    assert set(SOURCE_NAMES.values()) <= set(shown())
    for section in SECTIONS:
        names = [name for panel in section.panels for name in panel.names]
        assert len(names) == len(set(names)), section.title


def test_every_training_value_that_a_panel_shows_is_logged():
    batch = random_batch(3)
    network = build_network(NetworkConfig(d_lens=16, num_heads=2, num_stacks=1), EMBEDDING_DIM, price=True)
    step = LensNetGradients(network, ObjectiveConfig("mixed"))
    terms = step([Examples(batch, random_pairs(batch, pairs_per_context=6))])
    of_the_loop = {"grad_norm", "grad_norm_max", "lr", "steps_per_s", "read_share"}
    logged = {*terms, *batch_diagnostics(step.last), *of_the_loop}
    names = {name for one in logged for name in shown_names("train", one)}
    assert {name for name in shown() if not name.startswith("validation/")} <= names


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own, while it is imported
def test_the_view_is_one_that_the_installed_package_makes(monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(sys, "argv", ["wandb_panels"])
    main()
    view = json.loads(capsys.readouterr().out)
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [section.title for section in SECTIONS]
    metrics = [m for section in sections for panel in section["panels"] for m in panel["config"]["metrics"]]
    assert metrics == shown()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ConfigError, match=r"mctrace\[wandb\]"):
        workspace("somebody")
