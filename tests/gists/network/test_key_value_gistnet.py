"""Key-value GistNets: they start as the model itself, change nothing but anchors, and survive a folder."""

import json

import pytest
import torch

from mctrace.base_model.masked_pass import linear_layers
from mctrace.errors import ModelError
from mctrace.gists.network.key_value_gistnet import (
    KeyValueGistConfig,
    KeyValueGistNet,
    is_key_value_folder,
)
from tests.gists.tiny_models import tiny_gistnet
from tests.models import tiny_model


def make(block_size: int = 4, seed: int = 0) -> KeyValueGistNet:
    torch.manual_seed(seed)
    return KeyValueGistNet(KeyValueGistConfig(block_size, linear_layers(tiny_model().network), rank=2))


def test_every_linear_layer_has_a_change_that_starts_at_zero():
    changes = make().changes(torch.tensor([3])).by_layer
    assert len(changes) == 2 * 7
    assert all(change.up.abs().sum() == 0 and change.down.abs().sum() > 0 for change in changes.values())


def test_a_folder_gives_back_the_same_network(tmp_path):
    network = make()
    torch.nn.init.normal_(network.up["layers/0/mlp/up_proj"])
    network.save_pretrained(tmp_path / "g")
    again = KeyValueGistNet.from_pretrained(tmp_path / "g")
    assert again.content_hash == network.content_hash != make().content_hash
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert {path.name for path in (tmp_path / "g").iterdir()} == {
        "config.json", "model.safetensors", "manifest.json"
    }  # fmt: skip
    assert is_key_value_folder(tmp_path / "g")


def test_other_folders_are_refused(tmp_path):
    tiny_gistnet().save_pretrained(tmp_path / "embedding")
    assert not is_key_value_folder(tmp_path / "embedding")
    with pytest.raises(ModelError, match="another kind of GistNet"):
        KeyValueGistNet.from_pretrained(tmp_path / "embedding")
    make().save_pretrained(tmp_path / "g")
    config = json.loads((tmp_path / "g" / "config.json").read_text())
    (tmp_path / "g" / "manifest.json").unlink()
    (tmp_path / "g" / "config.json").write_text(json.dumps({**config, "rank": 3}))
    with pytest.raises(ModelError, match="does not hold a key-value GistNet"):
        KeyValueGistNet.from_pretrained(tmp_path / "g")


def test_it_says_what_it_was_trained_for():
    network, layers = make(), linear_layers(tiny_model().network)
    network.check_fits(4, layers)
    with pytest.raises(ModelError, match=r"set tree\.block_size = 4"):
        network.check_fits(8, layers)
    with pytest.raises(ModelError, match="other layers"):
        network.check_fits(4, linear_layers(tiny_model("gpt_neox").network))
