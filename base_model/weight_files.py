"""Check of a model folder's safetensors files before loading: complete, readable, floats.

transformers loads a weight of any type and reads shards from wherever an index points to; a wrong type gives
weights of garbage, and a shard elsewhere is not in the model's hash.
"""

import json
from pathlib import Path
from typing import Any

from mctrace.errors import ModelError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


def check_weight_files(folder: Path) -> None:
    """Raises ModelError that names the file when the weights in `folder` cannot be those of a model."""
    files = _files(folder)
    is_quantised = "quantization_config" in _json_object(folder / "config.json")
    for file in files:
        dtypes = _dtypes(file)
        if other := sorted(name for name, dtype in dtypes.items() if dtype not in _FLOATS):
            if is_quantised:
                continue
            raise ModelError(
                f"{file} holds {dtypes[other[0]]} numbers in {len(other)} of its {len(dtypes)} tensors, "
                f"{other[0]} first, and config.json names no quantisation: save the model's weights as floats"
            )


def _files(folder: Path) -> list[Path]:
    """Files that transformers reads: one file, or the shards of an index."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        found = "only others" if any(folder.glob("*.safetensors")) else "no .safetensors files"
        raise ModelError(f"{found} in {folder}: it needs {_SINGLE}, or shards with {_INDEX}")
    shards = _json_object(folder / _INDEX).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names:
        raise ModelError(f"{folder / _INDEX} names no shards: copy the folder again")
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{folder / _INDEX} names a shard outside of the folder, {name}: put it inside")
        if not (folder / name).is_file():
            raise ModelError(
                f"the shard {name} that {_INDEX} names is not in {folder}: copy the folder again"
            )
    return [folder / name for name in names]


def _dtypes(file: Path) -> dict[str, str]:
    """The type of every tensor, as safetensors calls it, from the file's header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is cut off or no safetensors file ({error}): copy it again") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not usable: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not usable: it is no JSON object")
    return found
