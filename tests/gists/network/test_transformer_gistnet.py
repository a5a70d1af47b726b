"""Trainable GistNet: initial state, dependencies of its gists, round trip through a folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import GistNet, MeanGistNet, build_tree
from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet
from mctrace.train.checkpoints.manifest import MANIFEST

SIZES = {"embedding_dim": 8, "block_size": 4, "width": 12, "num_layers": 1, "feedforward_width": 16}
CONFIG = GistNetConfig(**SIZES, num_heads=2, num_kv_heads=2)
CHILDREN_MKd = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(3))


def network(config: GistNetConfig = CONFIG, *, trained: bool = True, seed: int = 0) -> TransformerGistNet:
    """Untrained, or with a last layer that is not zero."""
    torch.manual_seed(seed)
    made = TransformerGistNet(config)
    if trained:
        for pooler in made.poolers:
            torch.nn.init.normal_(pooler.project_out.weight, std=0.3)
            torch.nn.init.normal_(pooler.pick_weight, std=0.3)
            torch.nn.init.normal_(pooler.level_offset, std=0.3)
    return made.requires_grad_(False).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network().save_pretrained(tmp_path / "gistnet")
    return tmp_path / "gistnet"


def test_it_is_a_gistnet():
    assert isinstance(network(), GistNet)


@pytest.mark.parametrize("pooling", ["mean", "query", "cls"])
@pytest.mark.parametrize("num_levels", [1, 2])
def test_an_untrained_network_is_the_mean(num_levels, pooling):
    config = replace(CONFIG, num_levels=num_levels, pooling=pooling)
    tokens_Td = CHILDREN_MKd.reshape(-1, 8)
    tree = TreeShape(4, 2)
    expected = build_tree(MeanGistNet(), tokens_Td, tree)
    found = build_tree(network(config, trained=False), tokens_Td, tree)
    for ours, means in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, means)


def test_a_trained_network_depends_on_every_child_and_on_their_order():
    gistnet = network()
    before = gistnet.gists(CHILDREN_MKd, 1)
    assert (before - CHILDREN_MKd.mean(dim=1)).abs().max() > 0.1
    for child in range(4):
        moved = CHILDREN_MKd.clone()
        moved[:, child] += 1
        assert ((gistnet.gists(moved, 1) - before).abs().amax(dim=1) > 1e-3).all()
    turned = gistnet.gists(CHILDREN_MKd.flip(1), 1)
    assert (turned - before).abs().max() > 1e-3


def test_a_node_is_made_from_its_own_children_alone():
    gistnet = network()
    alone = torch.cat([gistnet.gists(CHILDREN_MKd[i : i + 1], 1) for i in range(5)])
    torch.testing.assert_close(gistnet.gists(CHILDREN_MKd, 1), alone)


def test_gists_scale_with_their_children():
    """Base models' embeddings differ in scale by orders of magnitude; one network must fit them all."""
    gistnet = network()
    torch.testing.assert_close(
        gistnet.gists(CHILDREN_MKd * 0.01, 1), gistnet.gists(CHILDREN_MKd, 1) * 0.01, atol=1e-6, rtol=1e-4
    )


def test_children_that_are_all_zero_have_a_finite_gist():
    assert torch.isfinite(network().gists(torch.zeros(1, 4, 8), 1)).all()


def test_levels_share_weights_unless_each_has_its_own():
    shared, own = network(), network(replace(CONFIG, num_levels=2))
    assert len(shared.poolers) == 1
    assert len(own.poolers) == 2
    assert not torch.equal(own.gists(CHILDREN_MKd, 1), own.gists(CHILDREN_MKd, 2))
    own.poolers[0].project_out.weight.data += 1
    assert not torch.equal(own.gists(CHILDREN_MKd, 1), network(own.config).gists(CHILDREN_MKd, 1))
    assert torch.equal(own.gists(CHILDREN_MKd, 2), network(own.config).gists(CHILDREN_MKd, 2))


def test_shared_weights_distinguish_levels_by_an_offset_only():
    shared = network()
    assert not torch.equal(shared.gists(CHILDREN_MKd, 1), shared.gists(CHILDREN_MKd, 2))
    shared.poolers[0].level_offset.data.zero_()
    assert torch.equal(shared.gists(CHILDREN_MKd, 1), shared.gists(CHILDREN_MKd, 2))


def test_gists_have_the_dtype_of_their_children():
    found = network().gists(CHILDREN_MKd.to(torch.bfloat16), 1)
    assert found.dtype == torch.bfloat16


def test_a_document_too_short_for_a_coarse_gist_has_none():
    levels = build_tree(network(), torch.randn(9, 8), TreeShape(4, 2))
    assert [len(level) for level in levels] == [9, 2, 0]


def test_a_network_comes_back_bit_for_bit_from_its_folder(folder):
    saved, loaded = network(), TransformerGistNet.from_pretrained(folder)
    assert loaded.config == saved.config
    assert loaded.content_hash == saved.content_hash
    assert torch.equal(loaded.gists(CHILDREN_MKd, 1), saved.gists(CHILDREN_MKd, 1))


def test_a_loaded_network_is_frozen(folder):
    loaded = TransformerGistNet.from_pretrained(folder)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_any_change_of_a_weight_changes_the_content_hash():
    original = network().content_hash
    assert network().content_hash == original
    names = list(network().state_dict())
    hashes = set()
    for name in names:
        changed = network()
        changed.state_dict()[name].view(-1)[-1] += 1e-3
        hashes.add(changed.content_hash)
    assert original not in hashes
    assert len(hashes) == len(names) > 10


def test_another_configuration_has_another_content_hash_even_with_the_same_weights():
    def with_heads(num_heads: int) -> TransformerGistNet:
        return network(GistNetConfig(**SIZES, num_heads=num_heads, num_kv_heads=1))

    assert with_heads(1).state_dict().keys() == with_heads(3).state_dict().keys()
    assert with_heads(1).content_hash != with_heads(3).content_hash


def test_a_network_fits_only_its_own_block_size_and_width():
    network().check_fits(block_size=4, embedding_dim=8)
    with pytest.raises(ModelError, match=r"blocks of 4 and width 8.* blocks of 32 .* width 8"):
        network().check_fits(block_size=32, embedding_dim=8)
    with pytest.raises(ModelError, match=r"blocks of 4 and width 8.* blocks of 4 .* width 576"):
        network().check_fits(block_size=4, embedding_dim=576)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ModelError, match="width 384 is not divisible by twice num_heads 7"):
        GistNetConfig(embedding_dim=8, num_heads=7)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(min(weights))
    save_file(weights, folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")


def wrap(folder: Path) -> None:
    rewrite(folder, lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()})


def make_whole_numbers(folder: Path) -> None:
    rewrite(folder, lambda weights: {name: tensor.to(torch.int32) for name, tensor in weights.items()})


def diverge(folder: Path) -> None:
    rewrite(folder, lambda weights: {name: tensor / 0 for name, tensor in weights.items()})


DAMAGES = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "config is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[1, 2]"),
    "config is another model's": lambda folder: (folder / "config.json").write_text('{"hidden_size": 8}'),
    "config does not fit the weights": lambda folder: edit_config(folder, width=24),
    "config has a word for a number": lambda folder: edit_config(folder, width="wide"),
    "config has no heads": lambda folder: edit_config(folder, num_heads=0),
    "a weight is missing": drop_a_weight,
    "weights are cut off": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-7]
    ),
    "weights of a wrapped model": wrap,
    "weights that are whole numbers": make_whole_numbers,
    "weights that are no numbers": diverge,
    "weights are noise": lambda folder: (folder / "model.safetensors").write_bytes(b"not safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_folder_that_does_not_hold_a_whole_gistnet_is_refused_by_name(folder, damage):
    (folder / MANIFEST).unlink()
    damage(folder)
    with pytest.raises(ModelError, match=f"{folder} does not hold a GistNet: .") as refused:
        TransformerGistNet.from_pretrained(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("block_size", [8, 32, 128])
@pytest.mark.parametrize("pooling", ["mean", "query", "cls"])
def test_every_pooling_takes_every_block_size(pooling, block_size):
    gistnet = network(replace(CONFIG, pooling=pooling, block_size=block_size))
    children_MKd = torch.randn(3, block_size, 8, generator=torch.Generator().manual_seed(1))
    found = gistnet.gists(children_MKd, 2)
    assert found.shape == (3, 8)
    changed = children_MKd.clone()
    changed[:, -1] += 1
    assert ((gistnet.gists(changed, 2) - found).abs().amax(dim=1) > 1e-4).all()


def test_an_unknown_pooling_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match="one of mean, query, cls; got 'max'"):
        GistNetConfig(embedding_dim=8, pooling="max")


def test_weights_kept_in_half_precision_come_back_close(tmp_path):
    saved = network()
    saved.save_pretrained(tmp_path, torch.float16)
    loaded = TransformerGistNet.from_pretrained(tmp_path)
    torch.testing.assert_close(
        loaded.gists(CHILDREN_MKd, 1), saved.gists(CHILDREN_MKd, 1), atol=2e-2, rtol=1e-2
    )
    assert loaded.content_hash == TransformerGistNet.from_pretrained(tmp_path).content_hash
