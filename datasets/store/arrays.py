"""Reading a part's Zarr arrays: slice by document, then index in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mctrace.context.tree import TreeShape
from mctrace.datasets.store.location import Location
from mctrace.errors import StoreError


@dataclass(frozen=True)
class DocumentPlace:
    """Where a document's tokens and gists are: rows of arrays that it may share with other documents."""

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
        """Its part of the array of a level."""
        return slice(self.first_rows[level], self.first_rows[level] + self.num_rows[level])


def array_of_level(level: int) -> str:
    """Path, in a document's group, of its tokens (level 0) or its gists of a level."""
    return f"gists/lod{level}" if level else "tokens"


def read_document(location: Location, place: DocumentPlace, *levels: int) -> list[npt.NDArray[Any]]:
    """A document's tokens [T] (level 0) and gists [nodes, d], for each of `levels`.

    Raises StoreError when they are not all there.
    """
    group = open_arrays(location, place.folder)

    def read(level: int) -> npt.NDArray[Any]:
        values = read_array(group, array_of_level(level), place.rows(level))
        _check_rows(location, place, level, values)
        return values

    return list(location.each(read, levels))


def read_tokens(location: Location, places: Sequence[DocumentPlace]) -> list[npt.NDArray[Any]]:
    """The tokens [T] of documents that share one folder, whose array is read once for all of them.

    Raises StoreError when they are not all there.
    """
    (folder,) = {place.folder for place in places}
    array = read_array(open_arrays(location, folder), array_of_level(0))
    tokens = [array[place.rows(0)] for place in places]
    for place, found in zip(places, tokens, strict=True):
        _check_rows(location, place, 0, found)
    return tokens


def _check_rows(location: Location, place: DocumentPlace, level: int, values: npt.NDArray[Any]) -> None:
    if len(values) != place.num_rows[level]:
        raise StoreError(
            f"{location.uri}/{place.folder} has too few rows of level {level}: {len(values)} of "
            f"{place.num_rows[level]} (mctrace verify)"
        )


def open_arrays(location: Location, folder: str) -> zarr.Group:
    """The Zarr group a table's `arrays` column names. Raises StoreError when it is not there."""
    store: Any = location.path(folder)
    if not location.is_local:
        store = zarr.storage.FsspecStore.from_url(location.url(folder), read_only=True)
    try:
        # Said outright, so that nothing has to be looked for that this format does not have.
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{location.uri}/{folder} cannot be read: {error} (mctrace verify)") from error


def read_array(group: zarr.Group, path: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
    """One array, whole or some of its rows."""
    try:
        found = group[path]
        assert isinstance(found, zarr.Array), path
        return np.asarray(found[rows])
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise StoreError(f"{group.store_path}/{path} cannot be read: {error} (mctrace verify)") from error
