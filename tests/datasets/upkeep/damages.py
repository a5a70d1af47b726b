"""Every kind of file a store has, damaged in every way, and who notices: for tests, and for `tests.chaos`.

    python -m tests.datasets.upkeep.damages [--flips 8] [--seed 0]

prints one JSON object with `damages_tried` and `damages_unnoticed`.
"""

import argparse
import json
import random
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store import file_verification
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.store.zarr_arrays import (
    ArrayFolder,
    DocumentPlace,
    open_arrays,
    read_array,
    read_document,
)
from mctrace.datasets.upkeep.verify import verify
from mctrace.errors import StoreError
from mctrace.progress import Silent
from tests.datasets.synthetic import EFFECTS, add_trajectory, add_vocabulary, synthetic_store

Damage = Callable[[bytes], bytes | None]
"""A file's new content; None removes it."""


@dataclass
class Damages:
    """What was tried, by name, and what of it nobody noticed, or noticed without naming the file."""

    tried: list[str] = field(default_factory=list)
    unnoticed: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {"damages_tried": len(self.tried), "damages_unnoticed": len(self.unnoticed)}


def store_with_every_kind(folder: Path) -> Store:
    """Checkpoints in its log and a sharded array, besides a file of nearly every table."""
    with patch("mctrace.datasets.store.ledger_table._CHECKPOINT_EVERY", 4):
        store = synthetic_store(folder)
        add_vocabulary(store)
        attention = [{"trajectory_id": "ta", "attention_mass": [0.5] * 3, "status": "ok"}]
        add_trajectory(store, "td", "a", EFFECTS, attention=attention)
        table = np.arange(4096, dtype=np.float32).reshape(64, 64)
        row = {"model_hash": "wide", "dtype": "float32", "vocabulary_size": 64, "embedding_dim": 64}
        with patch("mctrace.datasets.store.parts._CHUNK_BYTES", 1024):
            sharded = write_part(
                store.location, part_id="sharded", kind="embeddings", run_id="run",
                tables={"embeddings": [row]}, arrays={"embedding_table": table},
            )  # fmt: skip
        store.commit([sharded])
    return store


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    """Of the same kind are files whose places differ in ids, versions and hashes alone."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        place = path.relative_to(root).as_posix()
        kind = re.sub(r"/../[^/]*-columns\d+/", "/PART/", place)
        kind = re.sub(r"\d{20}", "VERSION", re.sub(r"[0-9a-f]{64}", "HASH", kind))
        found[kind].append(path)
    return found


def damages_of(content: bytes, chance: random.Random, flips: int) -> dict[str, Damage]:
    """By name. An empty file can only be removed."""
    found: dict[str, Damage] = {"delete": lambda _: None}
    if content:
        found |= {
            "empty": lambda _: b"",
            "truncate": lambda c: c.rstrip()[:-1],
            "append": lambda c: c + b"\0",
        }
        for bit in sorted(chance.sample(range(8 * len(content)), min(flips, 8 * len(content)))):
            found[f"flip bit {bit}"] = lambda c, bit=bit: _flipped(c, bit)  # type: ignore[misc]
    return found


def _flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def try_damages(
    store: Store,
    notice: Callable[[str], list[str]],
    *,
    flips: int = 2,
    seed: int = 0,
    kinds: str = "",
    per_kind: int = 3,
) -> Damages:
    """Damages one file after the other of a local store, all of a kind alike, and puts each back.

    `notice` is given the store's URI, and returns what it finds wrong; `kinds` is a regular expression. Of
    each kind that many files are taken: the last, the first, one in the middle.
    """
    assert notice(store.location.root) == []
    root, chance, tried = Path(store.location.root), random.Random(seed), Damages()
    for kind, files in files_by_kind(root).items():
        if not re.match(kinds, kind):
            continue
        for path in sorted(set([files[-1], files[0], files[len(files) // 2]][:per_kind])):
            for name, damage in damages_of(path.read_bytes(), chance, flips).items():
                with _changed({path: damage(path.read_bytes())}):
                    _note(tried, f"{path.relative_to(root)}: {name}", [path], root, notice)
        others = [one for one in files[1:] if one.read_bytes() != files[0].read_bytes()]
        if others:
            swapped = {files[0]: others[-1].read_bytes(), others[-1]: files[0].read_bytes()}
            with _changed(dict(swapped)):
                _note(tried, f"{kind}: swap", [files[0], others[-1]], root, notice)
    return tried


def _note(
    tried: Damages, name: str, damaged: list[Path], root: Path, notice: Callable[[str], list[str]]
) -> None:
    tried.tried.append(name)
    said = notice(str(root))
    if not any(str(path.relative_to(root)) in line for path in damaged for line in said):
        tried.unnoticed.append(f"{name} ({'; '.join(said) or 'not a word'})")


@contextmanager
def _changed(contents: dict[Path, bytes | None]) -> Iterator[None]:
    before = {path: path.read_bytes() for path in contents}
    try:
        for path, content in contents.items():
            path.unlink() if content is None else path.write_bytes(content)
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def found_by_verify(uri: str) -> list[str]:
    """What `mctrace verify` prints, line by line."""
    try:
        version = open_store(uri).at(even_if_cut=True)
        return [f"{p.place} {p.what}" for p in verify(version, quick=False, progress=Silent())]
    except StoreError as error:
        return [str(error)]


READ = r"parts/(?!.*/gists/zarr\.json)"
"""Kinds of file that `found_by_reading` reads. The metadata of a group within a group is not needed."""


def found_by_reading(uri: str) -> list[str]:
    """What stops somebody who reads everything that training, exports and questions about tokens read."""
    file_verification._right.clear()  # as in a new process
    try:
        version = open_store(uri).at()
        version.refuse_damaged(hash_tables=True)
        with connect(version) as connection:
            for row in fetch_rows(connection, "from stored_documents"):
                place = DocumentPlace.of(row)
                read_document(ArrayFolder.of(version, place.folder), place, *range(len(place.num_rows)))
            for row in fetch_rows(connection, "from stored_embeddings"):
                read_array(open_arrays(ArrayFolder.of(version, row["arrays"])), "embedding_table")
            fetch_rows(connection, "from document_tokens")
    except StoreError as error:
        return [str(error)]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=8, help="bits flipped of each file, one at a time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = store_with_every_kind(Path(folder))
        options = {"flips": arguments.flips, "seed": arguments.seed}
        found = try_damages(store, found_by_verify, **options)
        read = try_damages(store, found_by_reading, kinds=READ, **options)
    for line in (*found.unnoticed, *read.unnoticed):
        print(line, file=sys.stderr)
    print(json.dumps(Damages(found.tried + read.tried, found.unnoticed + read.unnoticed).counts()))


if __name__ == "__main__":
    main()
