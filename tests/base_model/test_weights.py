"""Weights that are not the model's are refused in one line; random ones never measure anything."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import resolve_model
from mctrace.errors import ModelError

Weights = dict[str, torch.Tensor]
NORM = "model.norm.weight"


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def load(folder: Path, dtype: str = "float32"):
    return load_base_model(resolve_model(str(folder)), dtype, "cpu")


def rewritten(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    whole = {name: tensor.clone() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


def compiled_layers(weights: Weights) -> Weights:
    return {name.replace("layers.0.", "layers.0._orig_mod."): tensor for name, tensor in weights.items()}


def with_norm(tensor: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, NORM: tensor}


WRONG = {
    "wrapped by DistributedDataParallel": (prefixed("module."), 'keys start with "module.": save the unwrap'),
    "wrapped by torch.compile": (prefixed("_orig_mod."), 'keys start with "_orig_mod.": save the unwrapped'),
    "one layer compiled": (compiled_layers, '"_orig_mod.": save the unwrapped'),
    "part of a larger model": (prefixed("policy."), 'keys start with "policy.": save the model itself'),
    "one missing": (without(NORM), rf"lacks {NORM}: "),
    "no head, which is not tied": (without("lm_head.weight"), r"lacks lm_head\.weight: "),
    "one too many": (lambda weights: {**weights, "vision.w": torch.ones(3)}, r"has vision\.w, which the net"),
    "another width": (with_norm(torch.ones(5)), rf"has {NORM} \(5,\) instead of \(32,\)"),
    "NaN": (with_norm(torch.full((32,), torch.nan)), f"holds NaN or infinity in {NORM}"),
    "one infinity": (with_norm(torch.eye(32)[0].log().neg()), f"holds NaN or infinity in {NORM}"),
    "whole numbers": (with_norm(torch.ones(32, dtype=torch.int8)), f"I8 numbers in 1 of its 21.*{NORM}"),
    "complex": (with_norm(torch.ones(32, dtype=torch.complex64)), f"C64 numbers in 1 of its 21.*{NORM}"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_weights_that_are_not_the_models_are_refused_by_name(folder, change, message):
    rewritten(folder, change)
    with pytest.raises(ModelError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(folder: Path, num_bytes: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])


def retag(folder: Path, dtype: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', dtype, 1))


def shard(folder: Path, lost: str = "", **renamed: str) -> None:
    """The weights in two shards, of which one is gone, or stands elsewhere in the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + (name > NORM)}-of-00002.safetensors" for name in weights}
    for file in set(places.values()):
        part = {name: weights[name] for name in weights if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    places |= renamed
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in folder.glob(f"*{lost}*.safetensors") if lost else ():
        path.unlink()


DAMAGED = {
    "cut off": (lambda folder: cut(folder, 5000), "model.safetensors is cut off"),
    "cut in the header": (lambda folder: cut(folder, 40), "model.safetensors is cut off"),
    "empty": (lambda folder: cut(folder, 0), "model.safetensors is cut off"),
    "a type of the same size": (lambda folder: retag(folder, b'"I32"'), "I32 numbers in 1 of its 21"),
    "a type of another size": (lambda folder: retag(folder, b'"F16"'), "model.safetensors is cut off"),
    "an unknown type": (lambda folder: retag(folder, b'"X32"'), "model.safetensors is cut off"),
    "a shard is missing": (
        lambda folder: shard(folder, "00001-of"),
        "shard model-00001-of-00002.safetensors",
    ),
    "a shard elsewhere": (
        lambda folder: shard(folder, **{NORM: "../other.safetensors"}),
        "outside of the folder",
    ),
    "no index": (
        lambda folder: (shard(folder), (folder / "model.safetensors.index.json").unlink()),
        "model.safetensors.index.json",
    ),
    "an index that is cut off": (
        lambda folder: (shard(folder), (folder / "model.safetensors.index.json").write_text("{")),
        "index.json is not usable",
    ),
    "an index of nothing": (
        lambda folder: (shard(folder), (folder / "model.safetensors.index.json").write_text("{}")),
        "names no shards",
    ),
    "more layers than weights": (
        lambda folder: edit_config(folder, num_hidden_layers=3),
        r"lacks model\.layers\.2.* and 6 more: its configuration and its weights are not of one model",
    ),
    "fewer layers": (lambda folder: edit_config(folder, num_hidden_layers=1), r"has model\.layers\.1"),
    "a word for a number": (lambda folder: edit_config(folder, num_hidden_layers="two"), "num_hidden_layers"),
    "a quantisation": (
        lambda folder: edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        "cannot load the model",
    ),
    "a configuration cut off": (
        lambda folder: (folder / "config.json").write_text('{"model_type": '),
        "config.json is not usable",
    ),
    "a configuration of bytes": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json is not usable",
    ),
    "a number for a configuration": (lambda folder: (folder / "config.json").write_text("3"), "no JSON obj"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_model_folder_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_shards_that_are_all_there_are_the_model(folder, tiny_model_folder):
    shard(folder)
    whole, sharded = load(tiny_model_folder).network.state_dict(), load(folder).network.state_dict()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both", "neither"])
def test_tied_weights_need_to_be_there_once(tmp_path, kept):
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    network = AutoModelForCausalLM.from_config(config)
    network.save_pretrained(tmp_path)
    table = network.get_input_embeddings().weight.detach()
    tied = ("model.embed_tokens.weight", "lm_head.weight")
    names = {"both": tied, "neither": ()}.get(kept, (kept,))
    rewritten(
        tmp_path,
        lambda weights: {
            **{name: tensor for name, tensor in weights.items() if name not in tied},
            **dict.fromkeys(names, table),
        },
    )
    if kept == "neither":
        with pytest.raises(ModelError, match=r"lacks .*model\.embed_tokens\.weight"):
            load(tmp_path)
    else:
        assert torch.equal(load(tmp_path).network.get_output_embeddings().weight, table)


def test_a_dtype_too_narrow_for_a_weight_is_refused(folder):
    rewritten(folder, with_norm(torch.full((32,), 1e6)))
    with pytest.raises(ModelError, match=f"infinity in {NORM}.*try model.dtype = float32"):
        load(folder, "float16")
    assert load(folder).network.dtype == torch.float32
