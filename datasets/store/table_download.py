"""What DuckDB opens of a table: its files where they are, or copies of small ones from an object store.

A query on an object store would ask for one small file after the other, several requests each. So they are
fetched many at a time, once in a process, and held against the ledger's hash on the way; large ones are read
where they are, a range at a time.
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
"""of a file that is fetched whole"""


def readable_files(location: Location, files: Sequence[tuple[str, PartFile]]) -> list[str]:
    """A path or URL for each file, given by its place in the store and what the ledger says of it.

    Raises StoreError when one cannot be fetched or is not what the ledger says.
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
    """Of this process, and gone with it."""
    folder = Path(tempfile.mkdtemp(prefix="mctrace-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
