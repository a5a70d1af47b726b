"""Compaction: many small parts become few large ones in a new version, quicker to open, otherwise equal.

A compacted part lists in its lineage the parts it stands for, in commit order, and holds their rows in that
order; documents' arrays stand one behind the other. The old parts stay where they are, for the versions that
name them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.parquet_bytes import read_parquet
from mctrace.datasets.store.parts import ARRAYS, Part, PartFile, write_part
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import Store, StoreVersion
from mctrace.datasets.store.zarr_arrays import ArrayFolder, DocumentPlace, array_of_level, read_document
from mctrace.errors import StoreError
from mctrace.progress import Progress

_KINDS = ("document", "trajectory", "drops", "joints", "attention")
_MOST_BYTES = 256 * 2**20
_MOST_PARTS = 4096
RUN_ID = "compaction"


def compact(store: Store, progress: Progress) -> list[Part]:
    """Commits one part for every group of parts that were not compacted yet; returns the new ones.

    Raises StoreError when a file is not what the ledger says, before anything of its group is committed.
    """
    version, made = store.at(), []
    groups = [group for parts in _alike(version) for group in _groups(parts)]
    progress.start("compacting", sum(map(len, groups)), "parts")
    try:
        for group in groups:
            made += store.commit([_merge(version, group)])
            progress.advance(len(group))
    finally:
        progress.stop()
    return made


def _alike(version: StoreVersion) -> Iterator[list[Part]]:
    """Parts to compact together: of one kind, documents of one provenance, none compacted before."""
    by_kind: dict[str, list[Part]] = defaultdict(list)
    for part in (c.part for c in version.parts if not c.part.lineage):
        by_kind[part.kind].append(part)
    rows = fetch_rows(connect(version), "from stored_documents") if by_kind["document"] else []
    provenance = {row["arrays"]: Provenance.of(row) for row in rows}
    for kind in _KINDS:
        if kind == "document":
            documents: dict[Provenance, list[Part]] = defaultdict(list)
            for part in by_kind[kind]:
                documents[provenance[f"{part.folder}/{ARRAYS}"]].append(part)
            yield from documents.values()
        else:
            yield by_kind[kind]


def _groups(parts: Iterable[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    size = 0
    for part in parts:
        if group and (size + part.size > _MOST_BYTES or len(group) >= _MOST_PARTS):
            yield group
            group, size = [], 0
        group.append(part)
        size += part.size
    if len(group) > 1:
        yield group


def _merge(version: StoreVersion, group: list[Part]) -> Part:
    lineage = tuple(part.part_id for part in group)
    tables = {
        name: pa.concat_tables(
            version.location.each(
                lambda part, name=name: _read(version, part, name),  # type: ignore[misc]
                [part for part in group if name in part.num_rows],
            )
        )
        for name in TABLES
        if any(name in part.num_rows for part in group)
    }
    arrays: dict[str, npt.NDArray[Any]] | None = None
    if group[0].kind == "document":
        tables["documents"], arrays = _concatenate(version, group, tables["documents"])
    return write_part(
        version.location,
        part_id=hashlib.sha256(" ".join(("compacted", *lineage)).encode()).hexdigest()[:40],
        kind=group[0].kind,
        run_id=RUN_ID,
        tables=tables,
        arrays=arrays,
        lineage=lineage,
    )


def _concatenate(
    version: StoreVersion, group: list[Part], documents: pa.Table
) -> tuple[pa.Table, dict[str, npt.NDArray[Any]]]:
    """Concatenated arrays of the documents, and their rows with the place where each begins."""
    places = [DocumentPlace.of(row) for row in documents.to_pylist()]
    levels = range(len(places[0].num_rows))

    def read(place: DocumentPlace) -> list[npt.NDArray[Any]]:
        return read_document(ArrayFolder.of(version, place.folder), place, *levels)

    values = list(version.location.each(read, places))
    arrays = {array_of_level(level): np.concatenate([found[level] for found in values]) for level in levels}
    ends = np.cumsum([place.num_rows for place in places], axis=0)
    first_rows = np.vstack([np.zeros_like(ends[:1]), ends[:-1]]).tolist()
    column = documents.schema.get_field_index("first_rows")
    field = documents.schema.field(column)
    return documents.set_column(column, field, pa.array(first_rows, field.type)), arrays


def _read(version: StoreVersion, part: Part, name: str) -> pa.Table:
    """A part's table with every current column."""
    (file,) = (file for file in part.files if file.path == f"{name}.parquet")
    table, schema = read_parquet(_content(version, part, file)), TABLES[name]
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)


def _content(version: StoreVersion, part: Part, file: PartFile) -> bytes:
    """Content of a part's file. Raises StoreError when it differs from what the ledger says."""
    place = f"{part.folder}/{file.path}"
    try:
        content = version.location.read_bytes(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error} (mctrace verify)") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise StoreError(f"{place} is damaged: nothing more is compacted (mctrace verify)")
    return content
