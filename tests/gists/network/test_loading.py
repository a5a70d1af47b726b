"""Loading a GistNet: "mean", a folder, or a user's own code."""

from pathlib import Path

import pytest
import torch

from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from mctrace.gists.network.loading import load_gistnet
from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet

USERS_CODE = '''
import torch

class FirstChild:
    content_hash = "first-child-1"

    def check_fits(self, block_size, embedding_dim):
        pass

    def gists(self, children_MKd, level):
        return children_MKd[:, 0]

class Hashed(FirstChild):
    """Its hash exists on instances only."""
    def __init__(self):
        self.secret = "made"

    @property
    def content_hash(self):
        return self.secret

class Callable(torch.nn.Module):
    content_hash = "module-1"

    def check_fits(self, block_size, embedding_dim):
        pass

    def gists(self, children_MKd, level):
        return children_MKd[:, -1]

def make():
    return FirstChild()

class NoHash:
    def check_fits(self, block_size, embedding_dim): ...
    def gists(self, children_MKd, level): ...

class NoGists:
    content_hash = "x"
    def check_fits(self, block_size, embedding_dim): ...

class Module(torch.nn.Module):
    """A plain module without the protocol's three members."""

instance = FirstChild()
callable_instance = Callable()
bare_module = Module()
number = 7
'''


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_gists_for_tests.py").write_text(USERS_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_gists_for_tests"


def test_mean_is_the_mean():
    gistnet = load_gistnet("mean")
    assert isinstance(gistnet, MeanGistNet)
    assert gistnet.content_hash == "mean"
    gistnet.check_fits(block_size=7, embedding_dim=11)


def test_a_folder_is_loaded_as_the_network_that_was_saved_there(tmp_path):
    saved = TransformerGistNet(GistNetConfig(8, 4, width=12, num_layers=1, num_heads=2, num_kv_heads=1))
    saved.save_pretrained(tmp_path / "gists")
    assert load_gistnet(str(tmp_path / "gists")).content_hash == saved.content_hash


def test_an_empty_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path} does not hold a GistNet"):
        load_gistnet(str(tmp_path))


@pytest.mark.parametrize(
    ("attribute", "content_hash", "child"),
    [
        ("instance", "first-child-1", 0),
        ("make", "first-child-1", 0),
        ("FirstChild", "first-child-1", 0),
        ("Hashed", "made", 0),
        ("callable_instance", "module-1", 3),
    ],
)
def test_a_users_gistnet_comes_by_instance_factory_or_class(users_module, attribute, content_hash, child):
    gistnet = load_gistnet(f"{users_module}:{attribute}")
    assert gistnet.content_hash == content_hash
    gistnet.check_fits(4, 3)
    tokens_Td = torch.arange(24.0).view(8, 3)
    levels = build_tree(gistnet, tokens_Td, TreeShape(4, 1))
    assert torch.equal(levels[1], tokens_Td[child::4])


@pytest.mark.parametrize("attribute", ["NoHash", "NoGists", "number", "bare_module"])
def test_a_users_object_that_is_no_gistnet_is_refused_with_what_it_lacks(users_module, attribute):
    with pytest.raises(ModelError, match=f"{users_module}:{attribute}.*content_hash, check_fits or gists"):
        load_gistnet(f"{users_module}:{attribute}")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("no_such_package_at_all:net", "No module named 'no_such_package_at_all'"),
        ("mctrace.gists.network.gistnet:Absent", "Absent"),
        (":net", "cannot be imported"),
        ("..relative:net", "cannot be imported"),
    ],
)
def test_an_entry_point_that_cannot_be_imported_is_refused_with_the_reason(source, why):
    with pytest.raises(ModelError, match=why) as refused:
        load_gistnet(source)
    assert repr(source) in str(refused.value)


def test_an_unknown_source_is_refused_with_the_valid_ones():
    with pytest.raises(ModelError) as refused:
        load_gistnet("median")
    for hint in ("'median'", "'mean'", "config.json", "model.safetensors", "package.module:attribute"):
        assert hint in str(refused.value)
