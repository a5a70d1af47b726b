"""Verification of files against the ledger's sha256 when a process first reads them; matches are cached."""

import hashlib

from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import PartFile
from mctrace.errors import StoreError

_BLOCK = 8 * 2**20
"""Bytes read at once for a hash."""

_right: set[tuple[str, str, str]] = set()
"""store, place and hash of the files that this process has found to match the ledger"""


def file_hash(location: Location, place: str) -> str:
    """sha256 of a file as it is now. Raises StoreError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with location.filesystem.open(location.path(place), "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise StoreError(f"{location.uri}/{place} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def known_to_match(location: Location, place: str, file: PartFile) -> bool:
    """Whether this process has already found the file to match the ledger."""
    return (location.uri, place, file.sha256) in _right


def matches_ledger(location: Location, place: str, file: PartFile, content: bytes | None = None) -> bool:
    """Whether a file, or its `content` where that was already read, matches the ledger."""
    found = file_hash(location, place) if content is None else hashlib.sha256(content).hexdigest()
    if found == file.sha256:
        _right.add((location.uri, place, file.sha256))
    return found == file.sha256
