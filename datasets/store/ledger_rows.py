"""Rows of the ledger as Parquet: a committed part per row, files named by the hash of their content."""

import io
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.store.parquet_bytes import read_parquet
from mctrace.datasets.store.parts import Part, PartFile
from mctrace.datasets.store.schemas import LEDGER

PREFIX = "rows-"
"""A ledger file's name is this and the sha256 of its content; deltalake wrote those of older ledgers."""


@dataclass(frozen=True)
class CommittedPart:
    """A part as a version of the ledger lists it."""

    part: Part
    committed_at: datetime


def to_parquet(rows: Sequence[CommittedPart] | pa.Table) -> bytes:
    """Ledger file of rows. A nonce makes each file unique, so its name tells whose commit was made."""
    if not isinstance(rows, pa.Table):
        rows = pa.Table.from_pylist([_to_row(row) for row in rows], schema=LEDGER)
    buffer = io.BytesIO()
    nonce = {"nonce": secrets.token_hex(8)}
    pq.write_table(rows.replace_schema_metadata(nonce), buffer, compression="zstd")
    return buffer.getvalue()


def as_table(content: bytes, columns: Sequence[str] = tuple(LEDGER.names)) -> pa.Table:
    """Rows of a ledger file as Arrow, whoever wrote it."""
    table = read_parquet(content, columns)
    return table.select(list(columns)).cast(pa.schema([LEDGER.field(name) for name in columns]))


def file_name(content: bytes) -> str:
    return f"{PREFIX}{sha256(content).hexdigest()}.parquet"


def _to_row(committed: CommittedPart) -> dict[str, object]:
    part = committed.part
    return {
        "part_id": part.part_id,
        "kind": part.kind,
        "run_id": part.run_id,
        "committed_at": committed.committed_at,
        "folder": part.folder,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in part.files],
        "tables": [{"name": name, "num_rows": count} for name, count in part.num_rows.items()],
        "lineage": list(part.lineage),
    }


def from_parquet(content: bytes) -> list[CommittedPart]:
    """Rows of a ledger file, read by column: ten thousand parts take a fraction of a second."""
    table = read_parquet(content)
    parts = zip(
        *(table[name].to_pylist() for name in ("part_id", "kind", "run_id", "folder")),
        _structs(table["files"], PartFile, ("path", "size", "sha256")),
        map(dict, _structs(table["tables"], lambda *pair: pair, ("name", "num_rows"))),
        map(tuple, table["lineage"].to_pylist()),
        strict=True,
    )
    times = table["committed_at"].to_pylist()
    return [CommittedPart(Part(*columns), at) for columns, at in zip(parts, times, strict=True)]


def _structs(
    column: pa.ChunkedArray, make: Callable[..., Any], names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """For each row of a list of structs, the results of `make` on their fields."""
    lists = column.combine_chunks()
    made = list(map(make, *(lists.values.field(name).to_pylist() for name in names)))
    ends = lists.offsets.to_pylist()
    return [tuple(made[first:end]) for first, end in pairwise(ends)]
