"""Tables of a training run on disk: Arrow files that every process of a machine maps into memory.

What a process holds does not grow with their rows: a row is read when a batch asks for it, and the operating
system may drop pages that were read. The folder may be removed once the files are open.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import duckdb
import pyarrow as pa

from mctrace.datasets.batches.stored_maps import StoredMap, maps_query, stored_map
from mctrace.datasets.sql.connection import error_text
from mctrace.errors import StoreError

_BATCH_ROWS = 122_880


def create_maps(connection: duckdb.DuckDBPyConnection, table: str, *, with_attention: bool = False) -> None:
    """Creates the table `chosen_maps` of the trajectories that `table` names, numbered from 0."""
    connection.execute(
        "create temp table chosen_maps as select *, row_number() over (order by trajectory_id) - 1 "
        f"as map_number from ({maps_query(table, with_attention=with_attention)})"
    )


def write_arrow_files(
    connection: duckdb.DuckDBPyConnection, folder: Path, queries: Mapping[str, str], what: str
) -> None:
    """Writes NAME.arrow for each query, and maps.arrow of the table `chosen_maps`.

    Raises StoreError when what they read is damaged, or when a file cannot be written.
    """
    try:
        for name, query in {**queries, "maps": "from chosen_maps order by map_number"}.items():
            _write(connection, folder / f"{name}.arrow", query)
    except duckdb.Error as error:
        raise damaged(error) from error
    except OSError as error:
        raise StoreError(
            f"{what} cannot be written to {folder}: {error.strerror or error} (TMPDIR names another folder)"
        ) from error


def damaged(error: duckdb.Error) -> StoreError:
    """A query over what is stored failed."""
    return StoreError(f"{error_text(error)}\n(mctrace verify finds damaged files)")


@contextmanager
def arrow_folder(what: str) -> Iterator[Path]:
    """A temporary folder for files to be mapped. Raises StoreError when none can be made."""
    try:
        made = tempfile.TemporaryDirectory(prefix=f"mctrace-{what}-")
    except OSError as error:
        raise StoreError(
            f"no temporary folder for {what} can be made: {error.strerror} (TMPDIR names another)"
        ) from error
    with made as folder:
        yield Path(folder)


def mapped(folder: Path, name: str) -> pa.Table:
    """The table NAME.arrow, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()


class MappedMaps:
    """Head maps by their number; the latest are kept, since neighbouring snapshots share one."""

    def __init__(self, folder: Path) -> None:
        self._table = mapped(folder, "maps")
        self.map = lru_cache(maxsize=4096)(self._read)

    def _read(self, number: int) -> StoredMap:
        (row,) = self._table.slice(number, 1).to_pylist()
        return stored_map(row)


def _write(connection: duckdb.DuckDBPyConnection, path: Path, query: str) -> None:
    rows = connection.sql(query).to_arrow_reader(_BATCH_ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)
