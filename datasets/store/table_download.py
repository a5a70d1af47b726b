"""Download of a table's small files from an object store; others are opened where they are.

A query on an object store would request one small file after the other, several requests each. So they are
downloaded concurrently, once per process, and checked against the ledger's hash; large files are read in
place, a range at a time.
"""

import atexit
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import PartFile
from mctrace.errors import StoreError

MOST_BYTES = 8 * 2**20
"""Largest file that is downloaded whole."""


def readable_files(location: Location, files: Sequence[tuple[str, PartFile]]) -> list[str]:
    """Path or URL of each file, given by its place in the store and its ledger entry.

    Raises StoreError when one cannot be downloaded or differs from what the ledger says.
    """
    if location.is_local:
        return [location.path(place) for place, _ in files]
    folder = _folder()  # made here: threads that find none yet would each make their own
    return list(location.each(lambda one: _fetched(location, folder, *one), files))


def _fetched(location: Location, folder: Path, place: str, file: PartFile) -> str:
    if file.size > MOST_BYTES:
        return location.url(place)
    copy = folder / f"{file.sha256}.parquet"
    if not copy.exists():
        try:
            content = location.read_bytes(place)
        except OSError as error:
            raise StoreError(f"{location.uri} is damaged: {place}: {error} (mctrace verify)") from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise StoreError(f"{location.uri} is damaged: {place} has other content than the ledger says")
        scratch = copy.with_suffix(f".{threading.get_ident()}")
        scratch.write_bytes(content)
        scratch.rename(copy)
    return str(copy)


@cache
def _folder() -> Path:
    """Temporary folder of this process, removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="mctrace-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
