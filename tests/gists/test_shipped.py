"""Shipped GistNets: they load by name, match their description, and have a card."""

import json

import pytest

from mctrace.gists.network.loading import SHIPPED, load_gistnet, shipped_names
from mctrace.gists.network.transformer_gistnet import TransformerGistNet


def test_the_demo_s_model_has_a_shipped_gistnet():
    assert "smollm2-135m-k32" in shipped_names()
    load_gistnet("smollm2-135m-k32").check_fits(block_size=32, embedding_dim=576)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_gistnets_are_complete_small_and_described(name):
    gistnet = load_gistnet(name)
    assert isinstance(gistnet, TransformerGistNet)
    assert not any(parameter.requires_grad for parameter in gistnet.parameters())
    assert (SHIPPED / name / "model.safetensors").stat().st_size < 16e6
    assert gistnet.content_hash in (SHIPPED / name / "MODEL_CARD.md").read_text()
    evaluation = json.loads((SHIPPED / name / "evaluation.json").read_text())
    training = json.loads((SHIPPED / name / "training.json").read_text())
    assert evaluation["gist_hash"] == gistnet.content_hash
    assert evaluation["model_hash"] == training["model_hash"]
