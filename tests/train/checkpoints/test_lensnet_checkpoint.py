"""Checkpoints round-trip bit for bit; damaged ones are refused with the reason."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mctrace.datasets.sql.target import Target
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import load_checkpoint, save_checkpoint
from mctrace.train.checkpoints.manifest import MANIFEST
from mctrace.train.loop.lensnet_training import checkpoint_writer
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from tests.train.checkpoints.descriptions import info_for

CONFIGS = [
    NetworkConfig(d_lens=16, num_heads=4),
    NetworkConfig(name="linear"),
    NetworkConfig(name="linear", match_words=True),
    NetworkConfig(d_lens=16, num_heads=4, match_words=True),
    NetworkConfig(name="transformer", d_lens=16, num_heads=4, num_layers=4, head="linear"),
]


@pytest.fixture
def saved(tmp_path):
    network = build_network(CONFIGS[0], 12, seed=3)
    save_checkpoint(tmp_path / "best", network, info_for(CONFIGS[0]))
    return tmp_path / "best"


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_is_bit_exact(tmp_path, make_batch, config):
    network = build_network(config, 12, seed=3)
    save_checkpoint(tmp_path / "runs" / "best", network, info_for(config))
    loaded, info = load_checkpoint(tmp_path / "runs" / "best")
    assert info == info_for(config)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert torch.equal(network.eval()(make_batch(0)), loaded(make_batch(0)))


def test_writing_again_replaces_and_leaves_no_other_folder(saved):
    other = build_network(CONFIGS[0], 12, seed=4)
    save_checkpoint(saved, other, info_for(CONFIGS[0]))
    loaded, _ = load_checkpoint(saved)
    assert torch.equal(loaded.down_projection.weight, other.down_projection.weight)
    assert [path.name for path in saved.parent.iterdir()] == ["best"]
    assert {path.name for path in saved.iterdir()} == {"model.safetensors", "config.json", MANIFEST}


def test_a_crash_between_the_two_renames_loses_nothing(saved):
    saved.rename(saved.with_name(".best.previous"))
    _, info = load_checkpoint(saved)
    assert info.utility_scale == 0.02


def test_a_crash_before_the_rename_leaves_the_old_one(saved, monkeypatch):
    monkeypatch.setattr("mctrace.train.checkpoints.atomic_folder._swap", lambda fresh, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(saved, build_network(CONFIGS[0], 12, seed=9), info_for(CONFIGS[0]))
    monkeypatch.undo()
    loaded, _ = load_checkpoint(saved)
    assert torch.equal(loaded.slot_SD, build_network(CONFIGS[0], 12, seed=3).slot_SD)
    save_checkpoint(saved, loaded, info_for(CONFIGS[0]))
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def edit(folder, **changes):
    """Change the description as a user may: without the manifest, which lists the original file."""
    (folder / MANIFEST).unlink(missing_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("target", "merge"), [("literal_mine", "largest"), ("priced", "sum")])
def test_merges_of_schema_version_2_follow_from_the_target_s_name(saved, target, merge):
    text = "-- as it was\nselect *, delta_nll as utility from labels"
    edit(saved, schema_version=2, target=target, target_sql=text)
    _, info = load_checkpoint(saved)
    assert Target(info.target, info.target_sql).merge == merge
    edit(saved, schema_version=3)
    assert load_checkpoint(saved)[1].target_sql == text


def test_networks_before_schema_version_4_do_not_match_the_tail(tmp_path):
    config = replace(CONFIGS[0], match_tail=False)
    network = build_network(config, 12, seed=3)
    save_checkpoint(tmp_path / "old", network, info_for(config))
    told = json.loads((tmp_path / "old" / "config.json").read_text())["network"]
    del told["match_tail"]
    edit(tmp_path / "old", schema_version=3, network=told)
    loaded, info = load_checkpoint(tmp_path / "old")
    assert not info.network.match_tail
    assert torch.equal(loaded.slot_SD, network.slot_SD)


@pytest.mark.parametrize("version", [4, 6])
def test_networks_before_schema_version_7_match_no_words(saved, version):
    told = json.loads((saved / "config.json").read_text())["network"]
    del told["match_words"]
    edit(saved, schema_version=version, network=told)
    loaded, info = load_checkpoint(saved)
    assert info.network == CONFIGS[0]
    assert not loaded.match_words


def test_a_literal_target_of_schema_version_2_is_today_s(saved):
    today = Target.named("literal")
    edit(saved, schema_version=2, target="literal", target_sql=today.sql.replace("-- merge: largest\n", ""))
    _, info = load_checkpoint(saved)
    assert Target(info.target, info.target_sql).hash == today.hash


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file(dict(change(name, tensor) for name, tensor in load_file(path).items()), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a LensNet checkpoint: it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read"),
        (lambda folder: edit(folder, network={"widgets": 3}), "config.json cannot be read"),
        (lambda folder: edit(folder, network={"d_lens": 0}), "config.json cannot be read"),
        (lambda folder: edit(folder, schema_version=99), "schema version 99, .* upgrade"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"garbage"),
            "model.safetensors cannot be",
        ),
        (
            lambda folder: edit(folder, embedding_dim=13),
            r"has down_projection.weight \(16, 12\) instead of \(16, 13\): its configuration and",
        ),
        (lambda folder: edit(folder, network={"name": "linear"}), r"lacks score\.bias.*no place for"),
        (
            lambda folder: rewrite(folder, lambda name, tensor: (f"module.{name}", tensor)),
            'keys start with "module.": save the unwrapped model',
        ),
        (
            lambda folder: rewrite(folder, lambda name, tensor: (name, tensor / 0)),
            "NaN or infinity in .*more",
        ),
        (
            lambda folder: rewrite(folder, lambda name, tensor: (name, tensor.int())),
            "other numbers than floats",
        ),
    ],
)
def test_a_damaged_checkpoint_says_what_is_wrong(saved, damage, message):
    (saved / MANIFEST).unlink()
    damage(saved)
    with pytest.raises(InputError, match=message) as refused:
        load_checkpoint(saved)
    assert "\n" not in str(refused.value)


def test_the_writer_keeps_best_and_the_last_few_of_its_own(tmp_path):
    foreign = tmp_path / "step_9999999"
    foreign.mkdir()
    network = build_network(CONFIGS[0], 12)
    save = checkpoint_writer(tmp_path, network, info_for(CONFIGS[0]), keep_last=2)
    for step in (1, 2, 3):
        save("best", step, {"loss": 1.0 / step})
        save(f"step_{step:07d}", step, {})
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"best", "step_0000002", "step_0000003", "step_9999999"}
    _, info = load_checkpoint(tmp_path / "best")
    assert (info.step, info.metrics) == (3, {"loss": 1 / 3})
    assert load_checkpoint(tmp_path / "step_0000003")[1].metrics is None
