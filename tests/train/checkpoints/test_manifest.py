"""Manifests and atomic writes: a flipped bit is found, a full disk leaves the previous checkpoint."""

import errno
import json
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from mctrace.errors import InputError, ModelError, OutputError
from mctrace.gists.network.loading import SHIPPED
from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet
from mctrace.train.checkpoints.atomic_folder import write_folder
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_hash, load_checkpoint, save_checkpoint
from mctrace.train.checkpoints.manifest import MANIFEST, check_manifest
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.loop.lensnet_training import LensNetTraining
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from tests.train.checkpoints.descriptions import info_for

NETWORK = NetworkConfig(d_lens=16, num_heads=4)
GISTNET = GistNetConfig(embedding_dim=8, block_size=4, width=12, num_heads=2, num_kv_heads=1)


def training() -> LensNetTraining:
    return LensNetTraining.of(build_network(NETWORK, 12), TrainConfig(network=NETWORK), ProcessGroup())


@pytest.fixture
def step(tmp_path) -> Path:
    """A step's checkpoint: weights, configuration and training state."""
    info, folder = info_for(NETWORK), tmp_path / "step_0000001"
    state = training().state
    for parameter in state.network.parameters():
        state.optimiser.state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
    tensors = state.tensors(ProcessGroup())
    save_checkpoint(folder, build_network(NETWORK, 12), info, lambda fresh: state.write(fresh, tensors))
    return folder


def open_all(folder: Path) -> None:
    load_checkpoint(folder)
    training().state.restore(folder, ProcessGroup())


def flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    place = int(np.random.default_rng(seed).integers(len(content)))
    content[place] ^= 1 << seed % 8
    path.write_bytes(content)


FILES = ["config.json", "model.safetensors", "training_state.json", "training_state.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_of_a_checkpoint_is_found_in_its_file(step, name):
    open_all(step)
    whole = (step / name).read_bytes()
    for seed in range(12):
        flip(step / name, seed)
        with pytest.raises(InputError, match=f"{name} has another sha256"):
            open_all(step)
        (step / name).write_bytes(whole)
    (step / name).write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{name} has {len(whole) - 1} bytes, .* says {len(whole)}"):
        open_all(step)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_gistnets_files_are_checked_too(tmp_path, name):
    TransformerGistNet(GISTNET).save_pretrained(tmp_path)
    flip(tmp_path / name, 3)
    with pytest.raises(ModelError, match=f"{tmp_path} does not hold a GistNet: {name} has another sha256"):
        TransformerGistNet.from_pretrained(tmp_path)


def test_every_shipped_gistnet_has_a_manifest():
    for folder in SHIPPED.iterdir():
        listed = json.loads((folder / MANIFEST).read_text())["files"]
        check_manifest(folder, [entry["path"] for entry in listed])
        assert {"config.json", "model.safetensors"} <= {entry["path"] for entry in listed}


@pytest.mark.parametrize("content", ["{", "[]", '{"files": [1]}', '{"files": 3}', "{}"])
def test_a_damaged_manifest_is_named(step, content):
    (step / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        load_checkpoint(step)


def test_an_unlisted_or_missing_file_is_named(step):
    listed = json.loads((step / MANIFEST).read_text())["files"]
    (step / MANIFEST).write_text(json.dumps({"files": [e for e in listed if e["path"] == "config.json"]}))
    with pytest.raises(InputError, match=r"model\.safetensors is not listed in manifest\.json"):
        load_checkpoint(step)
    (step / MANIFEST).write_text(json.dumps({"files": listed}))
    (step / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing, though manifest\.json lists it"):
        load_checkpoint(step)


def test_a_checkpoint_without_a_manifest_opens_with_one_warning(step, caplog):
    identity = checkpoint_hash(step)
    (step / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            open_all(step)
    (said,) = [record.message for record in caplog.records]
    assert said == f"{step} has no manifest.json: its files cannot be checked"
    assert checkpoint_hash(step) == identity


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Limit the size of files that this process writes, as a full disk or quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_one_line_and_leaves_the_earlier_checkpoint(step):
    before = checkpoint_hash(step)
    with (
        file_size_limit(2000),
        pytest.raises(OutputError, match=f"{step} cannot be written .*is unchanged") as full,
    ):
        save_checkpoint(step, build_network(NETWORK, 12, seed=9), info_for(NETWORK))
    assert "\n" not in str(full.value)
    assert [path.name for path in step.parent.iterdir()] == [step.name]
    assert checkpoint_hash(step) == before
    open_all(step)


def full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(_: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("fill", "ends"), [(full_disk, OutputError), (interrupted, KeyboardInterrupt)])
def test_an_interrupted_first_write_leaves_nothing(tmp_path, fill: Callable[[Path], None], ends):
    with pytest.raises(ends):
        write_folder(tmp_path / "best", fill)
    assert list(tmp_path.iterdir()) == []
