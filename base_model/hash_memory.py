"""Hashes of large files, taken once per machine and remembered by path, size and time of change.

The actors of a node start together and would each read all weights before loading them: here the first one
reads, the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

_FOLDER = "hashes"


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's content, from the folder `cache` where it was taken before of the same file.

    Where `cache` cannot be written the hash is taken each time.
    """
    place = path.resolve()
    note = cache / _FOLDER / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
    with contextlib.suppress(OSError), _locked(note):
        state = place.stat()
        known = [state.st_size, state.st_mtime_ns]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(note.read_text())
            if found["size_and_time"] == known:
                return str(found["sha256"])
        digest = file_hash(place)
        scratch = note.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({"path": str(place), "size_and_time": known, "sha256": digest}))
        scratch.replace(note)
        return digest
    return file_hash(place)


@contextlib.contextmanager
def _locked(note: Path) -> Iterator[None]:
    note.parent.mkdir(parents=True, exist_ok=True)
    with note.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
