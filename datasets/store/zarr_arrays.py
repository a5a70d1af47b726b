"""Reading a part's Zarr arrays: slice by document, then index in memory.

Every file, metadata included, is checked against the ledger's sha256 when this process first reads it: Blosc
has no checksum, and a missing chunk would read as zeros.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from mctrace.context.tree import TreeShape
from mctrace.datasets.store.file_verification import known_to_match, matches_ledger
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import PartFile
from mctrace.datasets.store.store import StoreVersion, damaged_file
from mctrace.errors import StoreError


@dataclass(frozen=True)
class ArrayFolder:
    """Zarr group that a table's `arrays` column names, with the ledger entries of its files."""

    location: Location
    folder: str
    """relative to the store"""
    files: tuple[PartFile, ...]
    """their paths relative to the part's folder, which is the group's parent"""

    @classmethod
    def of(cls, version: StoreVersion, folder: str) -> "ArrayFolder":
        """Folder of a part. Raises StoreError for any other: the column is data, not a trusted path."""
        part_folder, _, _ = folder.rpartition("/")
        part = version.by_folder.get(part_folder)
        if part is None:
            raise StoreError(
                f"{version.location.uri}: the arrays {folder!r} are of no part of version "
                f"{version.version} (mctrace verify)"
            )
        return cls(version.location, folder, part.files)


@dataclass(frozen=True)
class DocumentPlace:
    """Place of a document's tokens and gists: rows of arrays that other documents may share."""

    folder: str
    """of the Zarr group, relative to the store"""
    first_rows: tuple[int, ...]
    """where the document begins in the array of each level, tokens first"""
    num_rows: tuple[int, ...]
    """tokens, then complete nodes of each level"""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "DocumentPlace":
        """From the columns arrays, first_rows, num_tokens, block_size and max_level of `stored_documents`."""
        tree = TreeShape(row["block_size"], row["max_level"])
        levels = range(tree.max_level + 1)
        num_rows = tuple(tree.num_complete_nodes(level, row["num_tokens"]) for level in levels)
        # Only compaction puts several documents into one array.
        first_rows = row["first_rows"] if row["first_rows"] is not None else [0] * len(num_rows)
        return cls(row["arrays"], tuple(first_rows), num_rows)

    def rows(self, level: int) -> slice:
        """Rows of the document in the array of a level."""
        return slice(self.first_rows[level], self.first_rows[level] + self.num_rows[level])


def array_of_level(level: int) -> str:
    """Path, in a document's group, of its tokens (level 0) or its gists of a level."""
    return f"gists/lod{level}" if level else "tokens"


def read_document(arrays: ArrayFolder, place: DocumentPlace, *levels: int) -> list[npt.NDArray[Any]]:
    """A document's tokens [T] (level 0) and gists [nodes, d], for each of `levels`.

    Raises StoreError when they are not all there, or not what the ledger says.
    """
    group = open_arrays(arrays)

    def read(level: int) -> npt.NDArray[Any]:
        values = read_array(group, array_of_level(level), place.rows(level))
        _check_rows(arrays, place, level, values)
        return values

    return list(arrays.location.each(read, levels))


def read_tokens(arrays: ArrayFolder, places: Sequence[DocumentPlace]) -> list[npt.NDArray[Any]]:
    """The tokens [T] of documents that share one folder, whose array is read once for all of them.

    Raises StoreError when they are not all there, or not what the ledger says.
    """
    array = read_array(open_arrays(arrays), array_of_level(0))
    tokens = [array[place.rows(0)] for place in places]
    for place, found in zip(places, tokens, strict=True):
        _check_rows(arrays, place, 0, found)
    return tokens


def _check_rows(arrays: ArrayFolder, place: DocumentPlace, level: int, values: npt.NDArray[Any]) -> None:
    if len(values) != place.num_rows[level]:
        raise StoreError(
            f"{arrays.location.uri}/{arrays.folder} has too few rows of level {level}: {len(values)} of "
            f"{place.num_rows[level]} (mctrace verify)"
        )


def open_arrays(arrays: ArrayFolder) -> zarr.Group:
    """The Zarr group. Raises StoreError when it is not there or not what the ledger says."""
    location = arrays.location
    files: Store = (
        LocalStore(location.path(arrays.folder), read_only=True)
        if location.is_local
        else FsspecStore.from_url(location.url(arrays.folder), read_only=True)
    )
    try:
        # Explicit, so that zarr does not probe for files that this format does not have.
        return zarr.open_group(_CheckedFiles(files, arrays), mode="r", zarr_format=3, use_consolidated=False)
    except StoreError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"{location.uri}/{arrays.folder} cannot be read: {error} (mctrace verify)"
        ) from error


def read_array(group: zarr.Group, path: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
    """One array, whole or some of its rows."""
    try:
        found = group[path]
        assert isinstance(found, zarr.Array), path
        return np.asarray(found[rows])
    except StoreError:
        raise
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        files = group.store_path.store
        if isinstance(files, _CheckedFiles):
            files.refuse_altered(path)
        raise StoreError(f"{group.store_path}/{path} cannot be read: {error} (mctrace verify)") from error


_one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
"""By file. All of zarr's reading is on one event loop."""


class _CheckedFiles(WrapperStore[Store]):  # type: ignore[misc]  # zarr is untyped here
    """Files of a group, each checked against the ledger before its first byte is used."""

    def __init__(self, store: Store, arrays: ArrayFolder) -> None:
        super().__init__(store)
        self._arrays = arrays
        root = arrays.folder.rpartition("/")[2]
        self._files = {file.path.removeprefix(f"{root}/"): file for file in arrays.files}

    def refuse_altered(self, path: str) -> None:
        """Raises StoreError for a file of the array that no longer matches the ledger."""
        for key, file in self._files.items():
            place = f"{self._arrays.folder}/{key}"
            if key.startswith(f"{path}/") and not matches_ledger(self._arrays.location, place, file):
                raise damaged_file(self._arrays.location, place)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        location, place, file = self._arrays.location, f"{self._arrays.folder}/{key}", self._files.get(key)
        if file is None:  # the ledger names every chunk
            raise damaged_file(location, place)
        if not known_to_match(location, place, file):
            async with _one_at_a_time[place]:
                if not known_to_match(location, place, file):
                    content = await self._store.get(key, prototype)
                    if content is None or not await asyncio.to_thread(
                        matches_ledger, location, place, file, content.to_bytes()
                    ):
                        raise damaged_file(location, place)
                    if byte_range is None:
                        return content
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            raise damaged_file(location, place)
        return found
