"""SmolLM2-135M in pieces: the quantised values of its GGUF, and how they become float32 again.

A transfer holds less than the model, and the machine it goes to may lack gguf. So pieces hold what a GGUF
holds, with scales and quanta apart and entropy-coded, and this makes of it bit for bit the weights that
`collect` loads (`build.py` compares them before it writes a piece).

Shapes: R rows, b blocks of 32 values per row.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32
MANIFEST = "manifest.json"
Array = npt.NDArray[Any]


def dequantised(kind: str, planes: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """The float32 values [R, 32 b] of a tensor, or [R] of an unquantised one, as gguf computes them."""
    if kind == "f32":
        return planes["values"]
    scale_Rb1 = planes["scale"].astype(np.float32)[..., None]
    if kind == "q8_0":
        values = planes["quants"].astype(np.float32) * scale_Rb1
    elif kind == "q4_1":
        packed = planes["quants"]
        quants = np.concatenate([packed & 0x0F, packed >> 4], axis=-1).astype(np.float32)
        values = scale_Rb1 * quants + planes["min"].astype(np.float32)[..., None]
    else:
        raise ValueError(f"weights of kind {kind!r} are not known here: build the kit anew")
    return values.reshape(len(values), -1)


def planes_of(kind: str, blocks: Array) -> dict[str, Array]:
    """A GGUF's raw bytes [R, b * bytes per block] (or [R] values) as the planes `dequantised` takes."""
    if kind == "f32":
        return {"values": np.ascontiguousarray(blocks, dtype=np.float32)}
    heads = {"q8_0": ("scale",), "q4_1": ("scale", "min")}[kind]
    width = 2 * len(heads) + (BLOCK if kind == "q8_0" else BLOCK // 2)
    blocks_Rbw = blocks.reshape(len(blocks), -1, width)
    planes = {
        name: np.ascontiguousarray(blocks_Rbw[..., 2 * i : 2 * i + 2]).view(np.float16)[..., 0]
        for i, name in enumerate(heads)
    }
    quants = np.ascontiguousarray(blocks_Rbw[..., 2 * len(heads) :])
    return {**planes, "quants": quants.view(np.int8) if kind == "q8_0" else quants}


def pack(tensors: Mapping[str, tuple[str, Mapping[str, Array]]]) -> bytes:
    """A piece: tensors by name, each with its kind and planes."""
    from safetensors.numpy import save

    flat = {
        f"{name}|{kind}|{plane}": np.ascontiguousarray(values)
        for name, (kind, planes) in tensors.items()
        for plane, values in planes.items()
    }
    # Nothing repeats in quantised weights; only some values are more frequent than others.
    coder = zlib.compressobj(6, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(save(flat)) + coder.flush()


def unpack(piece: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 tensors of a piece by name."""
    from safetensors.numpy import load

    planes: dict[tuple[str, str], dict[str, Array]] = {}
    for key, values in load(zlib.decompress(piece)).items():
        name, kind, plane = key.split("|")
        planes.setdefault((name, kind), {})[plane] = values
    return {name: dequantised(kind, of_tensor) for (name, kind), of_tensor in planes.items()}


def read_manifest(root: Path) -> dict[str, Any]:
    """What the parts under `root` hold; the manifest travels with the first of them."""
    found: dict[str, Any] = json.loads((root / "part-0" / MANIFEST).read_text())
    return found


def missing_pieces(root: Path) -> list[str]:
    """Pieces of the model, by their place under `root`, that are not there whole yet."""
    pieces = read_manifest(root)["pieces"]
    return [
        name
        for name, about in pieces.items()
        if not (root / name).is_file() or (root / name).stat().st_size != about["bytes"]
    ]


def unpacked_model(root: Path) -> Path:
    """The folder with the model's configuration and safetensors, made from the pieces once.

    Raises FileNotFoundError with the pieces that are missing, ValueError with one that arrived damaged.
    """
    folder = root / "smollm2-135m"
    if folder.is_dir():
        return folder
    if missing := missing_pieces(root):
        raise FileNotFoundError(f"not here yet: {', '.join(missing)}; put them under {root}")
    from safetensors.numpy import save_file

    manifest, tensors = read_manifest(root), {}
    for name, about in manifest["pieces"].items():
        piece = (root / name).read_bytes()
        if hashlib.sha256(piece).hexdigest() != about["sha256"]:
            raise ValueError(f"{root / name} is damaged: its sha256 is not the manifest's; send it again")
        tensors |= unpack(piece)
    scratch = Path(tempfile.mkdtemp(dir=root, prefix=".smollm2-"))
    try:
        (scratch / "config.json").write_text(json.dumps(manifest["config"]))
        save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
