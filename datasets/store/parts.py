"""Parts: the write-once folders of a store, and the manifest in the ledger row of each.

A part is built in a scratch folder, hashed, synced and moved into place; its folder name carries a nonce, so
a retry never meets the files of an earlier attempt. Until a ledger row names it, it does not exist.
"""

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from mctrace.datasets.store.location import Location
from mctrace.datasets.store.schemas import COLUMNS_VERSION, TABLES
from mctrace.errors import StoreError

ARRAYS = "arrays.zarr"
STAGING = "staging"
"""Folder in which parts are built on a local disk."""
_CHUNK_BYTES = 2**20
"""Bytes of a chunk, the least that is read and decompressed; large arrays have many chunks in few files."""
_SHARD_BYTES = 64 * 2**20
_MANY_ROWS = 32
"""Rows from which on dictionaries and statistics are worth their bytes."""
_GROUP_ROWS = 122_880
"""Rows of a row group, which one thread reads and a filter may skip as a whole."""
_SUFFIX = f"-columns{COLUMNS_VERSION}"


@dataclass(frozen=True)
class PartFile:
    """One file of a part; `path` is relative to the part's folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A part as the ledger describes it. `num_rows` counts the rows of each of its tables."""

    part_id: str
    kind: str
    run_id: str
    folder: str
    files: tuple[PartFile, ...]
    num_rows: Mapping[str, int]
    lineage: tuple[str, ...] = ()

    @property
    def has_todays_columns(self) -> bool:
        """Whether its tables have every column of `TABLES`; where not, some may be missing."""
        return self.folder.endswith(_SUFFIX)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def write_part(
    location: Location,
    *,
    part_id: str,
    kind: str,
    run_id: str,
    tables: Mapping[str, pa.Table | Path | Sequence[Mapping[str, object]]],
    arrays: Mapping[str, npt.NDArray[np.generic]] | None = None,
    lineage: tuple[str, ...] = (),
) -> Part:
    """Writes the part's files durably and returns its ledger entry; commits nothing.

    `tables` holds rows, an Arrow table or a Parquet file to move in by table name, `arrays` the Zarr arrays
    by path. A row's "arrays" column, where its table has one, is filled with the place of the part's arrays
    relative to the store.
    Raises StoreError when the store cannot be written to.
    """
    folder = f"parts/{kind}/{part_id[:2]}/{part_id}-{secrets.token_hex(4)}{_SUFFIX}"
    scratch = scratch_folder(location)
    try:
        num_rows = {
            name: _write_table(scratch, name, rows, f"{folder}/{ARRAYS}") for name, rows in tables.items()
        }
        if arrays:
            _write_arrays(scratch / ARRAYS, arrays)
        files = tuple(
            _describe(file, scratch) for file in sorted(p for p in scratch.rglob("*") if p.is_file())
        )
        location.move_in(scratch, folder)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write to the store {location.uri}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Part(part_id, kind, run_id, folder, files, num_rows, lineage)


def refuse_missing(location: Location, parts: Sequence[Part]) -> None:
    """Raises StoreError when a file of `parts` is missing or has another size: they must not be committed."""
    places = [(f"{part.folder}/{file.path}", file.size) for part in parts for file in part.files]
    if location.is_local:
        found = {place: location.size(place) for place, _ in places}
    else:  # one listing a part; to ask for each file would be a request each
        listings = location.each(location.sizes, [part.folder for part in parts])
        found = {place: size for listing in listings for place, size in listing.items()}
    missing = [place for place, size in places if found.get(place) != size]
    if missing:
        raise StoreError(
            f"cannot commit {len(parts)} parts to {location.uri}: {missing[0]} and {len(missing) - 1} other "
            "files are gone, or not as they were written, as after a sweep with too short a --grace; nothing "
            "was committed, the same command makes them again"
        )


def scratch_folder(location: Location) -> Path:
    """New folder to build a part in; on a local store inside it, so that moving in is one rename."""
    if not location.is_local:
        return Path(tempfile.mkdtemp(prefix="mctrace-part-"))
    staging = Path(location.path(STAGING))
    try:
        staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=staging))
    except OSError as error:
        raise StoreError(f"cannot write to the store {location.uri}: {error.strerror}") from error


def _write_table(
    scratch: Path, name: str, rows: pa.Table | Path | Sequence[Mapping[str, object]], arrays_folder: str
) -> int:
    """Writes a table; returns its number of rows."""
    schema = TABLES[name]
    if isinstance(rows, Path):
        shutil.move(rows, scratch / f"{name}.parquet")
        return int(pq.read_metadata(scratch / f"{name}.parquet").num_rows)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    if "arrays" in schema.names:
        column = schema.get_field_index("arrays")
        table = table.set_column(column, schema.field(column), pa.repeat(arrays_folder, len(table)))
    many = len(table) >= _MANY_ROWS
    pq.write_table(
        table,
        scratch / f"{name}.parquet",
        compression="zstd",
        # Losses hardly repeat, so a dictionary doubles their size. Split by byte, their exponents compress.
        use_dictionary=[field.name for field in table.schema if not pa.types.is_nested(field.type)]
        if many
        else False,
        use_byte_stream_split=[
            f"{field.name}.list.element"
            for field in table.schema
            if field.type in (pa.list_(pa.float32()), pa.list_(pa.float64()))
        ],
        # In a file of few rows, statistics would outweigh the rows; FORMAT.md documents the schema.
        write_statistics=many,
        row_group_size=_GROUP_ROWS,
        store_schema=False,
    )
    return len(table)


def _write_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for path, values in arrays.items():
        row_bytes = max(1, values[:1].nbytes)
        rows = min(max(1, len(values)), max(1, _CHUNK_BYTES // row_bytes))
        per_shard = min(-(-len(values) // rows), _SHARD_BYTES // _CHUNK_BYTES)
        array = group.create_array(
            path,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(rows, *values.shape[1:]),
            shards=(rows * per_shard, *values.shape[1:]) if per_shard > 1 else None,
            # A missing chunk would read as zeros without an error, so empty chunks are written too.
            config={"write_empty_chunks": True},
            # Split by byte, for the same reason as in Parquet.
            # The checksum is for readers that have zarr and no ledger.
            compressors=[
                zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
                zarr.codecs.Crc32cCodec(),
            ],
        )
        array[...] = values


def _describe(file: Path, root: Path) -> PartFile:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return PartFile(file.relative_to(root).as_posix(), file.stat().st_size, digest)


def part_digest(identity: dict[str, object]) -> str:
    """Part id: hash of everything that determines the part's content."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]
