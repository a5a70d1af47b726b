"""From a model's name to a folder, its hashes and its tokenizer; without a network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import Phi3Config

from mctrace.base_model.model_source import (
    SMOLLM2_ALIAS,
    ModelSource,
    _convert_gguf,
    cache_folder,
    max_positions,
    resolve_model,
)
from mctrace.errors import ModelError
from tests.models import WIDTH


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_local_folder_is_a_model(folder):
    source = resolve_model(str(folder))
    assert source == ModelSource(str(folder), None, folder.resolve())
    assert source.embedding_dim == WIDTH


def test_a_folder_may_be_named_from_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve_model("~/model").folder == folder.resolve()


@pytest.mark.parametrize("name", ["no-such-model", "someone/no-such-model", "/no/such/folder", "a b c"])
def test_an_unknown_model_is_refused_with_what_can_be_given(name):
    with pytest.raises(ModelError) as refused:
        resolve_model(name)
    for hint in (repr(name), repr(SMOLLM2_ALIAS), "local folder", "the hub"):
        assert hint in str(refused.value)


def test_a_model_without_a_name_is_refused(folder, monkeypatch):
    """An empty name is an unset variable, not the current folder."""
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="unknown model ''"):
        resolve_model("")


def test_the_model_hash_changes_with_any_weight(folder):
    before = resolve_model(str(folder)).model_hash
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    for name in (min(weights), max(weights)):
        changed = {key: tensor.clone() for key, tensor in weights.items()}
        changed[name].view(-1)[0] += 1e-3
        save_file(changed, path, metadata={"format": "pt"})
        assert resolve_model(str(folder)).model_hash != before


def test_the_model_hash_changes_with_what_the_model_computes_but_not_with_who_wrote_it(folder):
    before = resolve_model(str(folder)).model_hash
    edit_config(folder, transformers_version="0.0.1", _name_or_path="elsewhere")
    assert resolve_model(str(folder)).model_hash == before
    edit_config(folder, rms_norm_eps=1e-3)
    assert resolve_model(str(folder)).model_hash != before


def test_the_layout_of_config_json_does_not_matter(folder):
    before = resolve_model(str(folder)).model_hash
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert resolve_model(str(folder)).model_hash == before


def test_hashes_do_not_depend_on_where_the_folder_is_or_what_else_is_in_it(folder, tmp_path):
    first = resolve_model(str(folder))
    hashes = first.model_hash, first.tokenizer_hash
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("a card")
    source = resolve_model(str(moved))
    assert (source.model_hash, source.tokenizer_hash) == hashes


def test_every_shard_counts(folder):
    (path,) = folder.glob("*.safetensors")
    shutil.copy(path, folder / "model-00002.safetensors")
    two = resolve_model(str(folder)).model_hash
    (folder / "model-00002.safetensors").rename(folder / "model-00003.safetensors")
    assert len({two, resolve_model(str(folder)).model_hash}) == 2


def test_the_tokenizer_hash_is_the_tokenizers_alone(folder):
    before = resolve_model(str(folder))
    hashes = before.model_hash, before.tokenizer_hash
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    after = resolve_model(str(folder))
    assert after.model_hash == hashes[0]
    assert after.tokenizer_hash != hashes[1]


def test_the_tokenizer_of_a_folder_encodes_text(folder):
    tokenizer = resolve_model(str(folder)).load_tokenizer()
    tokens = tokenizer.encode("hé", add_special_tokens=False, verbose=False)
    assert tokens == tokenizer.convert_tokens_to_ids(["h", "Ã", "©"])
    assert len(set(tokens)) == 3


def test_a_folder_without_safetensors_is_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"no \.safetensors files in .*/model"):
        _ = resolve_model(str(folder)).model_hash


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    source = resolve_model(str(folder))
    with pytest.raises(ModelError, match=r"no tokenizer\.json in"):
        _ = source.tokenizer_hash
    with pytest.raises(ModelError, match="no usable tokenizer"):
        source.load_tokenizer()


@pytest.mark.parametrize("content", [None, "{not json", "{}", '{"model_type": "no-such-architecture"}', "[]"])
def test_a_folder_without_a_usable_configuration_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match="no usable configuration"):
        _ = resolve_model(str(folder)).embedding_dim


@pytest.mark.parametrize("content", [None, "{not json", "[]"])
def test_a_configuration_that_cannot_be_hashed_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        _ = resolve_model(str(folder)).model_hash


@pytest.mark.parametrize(
    "content", ["{not json", "{}", '{"version": "1.0", "added_tokens": [], "model": {"type": "Nonsense"}}']
)
def test_a_damaged_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="no usable tokenizer"):
        resolve_model(str(folder)).load_tokenizer()


def test_converted_models_are_kept_where_the_environment_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("MCTRACE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MCTRACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mctrace"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mctrace"


def test_a_longrope_model_is_used_up_to_where_its_rotary_factors_change():
    factors = [1.0] * 4
    config = Phi3Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        original_max_position_embeddings=256, pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors,
        },
    )  # fmt: skip
    assert max_positions(config) == 256


def write_gguf(path: Path, without: str = "") -> None:
    """A Llama of one layer as llama.cpp keeps it, its head tied to its embeddings."""
    writer = GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1),
        (writer.add_context_length, 64),
        (writer.add_embedding_length, WIDTH),
        (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 4),
        (writer.add_head_count_kv, 4),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, 16),
    ):
        add(value)
    square, wide, norm = (WIDTH, WIDTH), (64, WIDTH), (WIDTH,)
    shapes = {
        "token_embd": (16, WIDTH), "output_norm": norm, "blk.0.attn_norm": norm, "blk.0.ffn_norm": norm,
        "blk.0.attn_q": square, "blk.0.attn_k": square, "blk.0.attn_v": square, "blk.0.attn_output": square,
        "blk.0.ffn_gate": wide, "blk.0.ffn_up": wide, "blk.0.ffn_down": wide[::-1],
    }  # fmt: skip
    for name, shape in shapes.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_that_lacks_a_weight_or_is_cut_off_is_not_converted(tmp_path):
    gguf = tmp_path / "model.gguf"
    write_gguf(gguf, without="blk.0.ffn_up")
    with pytest.raises(ModelError, match=r"model\.gguf lacks model\.layers\.0\.mlp\.up_proj\.weight: "):
        _convert_gguf(gguf, tmp_path / "converted")
    gguf.write_bytes(gguf.read_bytes()[:900])
    with pytest.raises(ModelError, match=r"model\.gguf cannot be converted.*install it again") as refused:
        _convert_gguf(gguf, tmp_path / "converted")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [gguf]
