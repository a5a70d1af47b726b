"""Reading a part's Zarr arrays whole: slice by document, then index in memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mctrace.context.errors import StoreError
from mctrace.datasets.location import Location


def open_arrays(location: Location, folder: str) -> zarr.Group:
    """The Zarr group a table's `arrays` column names. Raises StoreError when it is not there."""
    store: Any = location.path(folder)
    if not location.is_local:
        store = zarr.storage.FsspecStore.from_url(location.url(folder), read_only=True)
    try:
        return zarr.open_group(store, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{location.uri}/{folder} cannot be read: {error} (mctrace verify)") from error


def read_array(group: zarr.Group, path: str) -> npt.NDArray[Any]:
    """One array, whole."""
    try:
        found = group[path]
        assert isinstance(found, zarr.Array), path
        return np.asarray(found[...])
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise StoreError(f"{group.store_path}/{path} cannot be read: {error} (mctrace verify)") from error
