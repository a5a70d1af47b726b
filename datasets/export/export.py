"""Export of labels with their context as a folder of plain files for other tools.

Rows stream from the query to the files; the folder appears under its name only when it is whole. The same
version with the same request gives the same bytes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mctrace.datasets.export.dataset_card import dataset_card
from mctrace.datasets.export.export_rows import (
    DocumentKey,
    document_rows,
    embedding_rows,
    snapshot_rows,
)
from mctrace.datasets.export.output_folder import put_in_place, scratch_beside
from mctrace.datasets.export.table_files import ExportFormat, TableFiles, write_json
from mctrace.datasets.sql.connection import connect, fetch_rows, sql_literal
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.datasets.sql.registry import read_sql, target_sql
from mctrace.datasets.sql.sandbox import check_condition, plain_query
from mctrace.datasets.sql.user_queries import stream_user_sql
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.store.zarr_arrays import DocumentPlace
from mctrace.errors import InputError
from mctrace.progress import Progress

METADATA = "mctrace-export.json"
_ROWS_AT_ONCE = 64
"""Snapshots held in memory, and in one row group."""
_KEYS = ("snapshot_id", "action", "node_level", "node_index")
"""A label within a version."""


@dataclass(frozen=True)
class ExportRequest:
    """Request for an export. `targets` are names or .sql files, `where` a SQL condition on labels."""

    layout: ExportFormat = "parquet"
    targets: tuple[str, ...] = ("value", "priced", "literal")
    where: str | None = None
    with_text: bool = False
    with_embeddings: bool = False

    @property
    def target_columns(self) -> dict[str, str]:
        """Target by the name of its column. Raises InputError when two would share one."""
        columns = {f"utility_{Path(target).stem}": target for target in self.targets}
        if len(columns) < len(self.targets):
            raise InputError(f"two targets of one name: {', '.join(self.targets)}")
        return columns


@dataclass(frozen=True)
class ExportSummary:
    """Rows by split of each table, and bytes of everything."""

    num_rows: Mapping[str, Mapping[str, int]]
    num_bytes: int


@dataclass
class _Measured:
    """Labels written so far by estimator, and the horizons of their snapshots."""

    by_estimator: Counter[str] = field(default_factory=Counter)
    horizons: set[int] = field(default_factory=set)

    def add(self, batch: pa.RecordBatch) -> None:
        self.by_estimator.update(batch["action_estimator"].flatten().to_pylist())
        self.horizons.update(batch["horizon"].to_pylist())


def export(
    version: StoreVersion,
    out: Path,
    request: ExportRequest,
    progress: Progress,
    *,
    overwrite: bool = False,
) -> ExportSummary:
    """Writes `out`, whole or not at all.

    Raises InputError when `out` is taken (only an earlier export is overwritten), cannot be written, or
    nothing fits the request; StoreError when the version is damaged, or does not hold the texts asked for.
    """
    try:
        with scratch_beside(out) as scratch:
            _refuse_taken(out, overwrite=overwrite)
            version.refuse_damaged(hash_tables=True)
            summary = _write(version, scratch, request, progress)
            put_in_place(scratch, out)
    except OSError as error:
        if error.errno is None:  # a StoreError says it better itself
            raise
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    finally:
        progress.stop()
    return summary


def _refuse_taken(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not (out / METADATA).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and no earlier export: choose another folder")
    if (out / METADATA).is_file() and not overwrite:
        raise InputError(f"{out} holds an earlier export: choose another folder, or --overwrite it")


def _write(version: StoreVersion, folder: Path, request: ExportRequest, progress: Progress) -> ExportSummary:
    connection = connect(version)
    # A connection of its own: the other one is in the middle of its answer when texts are asked for.
    texts = Detokenizer(connect(version)) if request.with_text else None
    documents = {DocumentKey.of(row): row for row in fetch_rows(connection, "from stored_documents")}
    places = {key: DocumentPlace.of(row) for key, row in documents.items()}
    progress.start("exporting", None, "snapshots")
    batches = stream_user_sql(connection, export_query(request), _ROWS_AT_ONCE)
    rows = snapshot_rows(version, batches, places, texts)
    used: dict[DocumentKey, None] = {}
    runs: dict[str, None] = {}
    measured = _Measured()
    snapshots = _write_snapshots(rows, folder, request, used, runs, measured, progress)
    if not snapshots.num_rows:
        where = f" where {request.where}" if request.where else ""
        raise InputError(f"{version.location.uri} at version {version.version} has no label{where}")
    tables = {"snapshots": snapshots}
    chosen = [documents[key] for key in sorted(used)]
    tables["documents"] = _write_documents(version, chosen, folder, request, texts)
    if request.with_embeddings:
        tables["embeddings"] = _write_embeddings(version, connection, used, folder, request)
    num_rows = {name: table.num_rows for name, table in tables.items()}
    about = _describe(version, connection, request, num_rows, measured, list(runs), chosen)
    schemas = {name: table.schema for name, table in tables.items()}
    write_json(folder / METADATA, about)
    (folder / "README.md").write_text(dataset_card(about, schemas), encoding="utf-8")
    return ExportSummary(num_rows, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def export_query(request: ExportRequest) -> str:
    """Query of `export.sql` for the request's targets and condition.

    Raises InputError for a target that is not a query and a condition that is not one.
    """
    if request.where:
        check_condition(request.where)
    columns = request.target_columns
    queries = {name: plain_query(target_sql(target)).text for name, target in columns.items()}
    joins = [
        f"left join (\n{query}\n) as {_quote(f'{name} of')} using ({', '.join(_KEYS)})"
        for name, query in queries.items()
    ]
    return (
        Path(__file__)
        .with_name("export.sql")
        .read_text(encoding="utf-8")
        .format(
            columns=", ".join(f"{_quote(f'{name} of')}.utility as {_quote(name)}" for name in columns),
            joins="\n    ".join(joins),
            fields=", ".join(f"{sql_literal(name)}: {_quote(name)}" for name in columns),
            where=request.where or "true",
        )
    )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _write_snapshots(
    rows: Iterator[pa.RecordBatch],
    folder: Path,
    request: ExportRequest,
    used: dict[DocumentKey, None],
    runs: dict[str, None],
    measured: _Measured,
    progress: Progress,
) -> TableFiles:
    """The table; notes the documents and runs that it names, and how its labels were measured."""
    table = TableFiles(folder / "snapshots", request.layout)
    for batch in rows:
        splits = batch["split"].to_pylist()
        for split in sorted({split for split in splits if split is not None}):
            some = batch.filter(pa.array([found == split for found in splits]))
            table.write(split, some)
            measured.add(some)
        key_columns = batch.select(list(DocumentKey.__dataclass_fields__)).to_pylist()
        used |= dict.fromkeys(DocumentKey.of(row) for row in key_columns)
        runs |= dict.fromkeys(batch["run_id"].to_pylist())
        progress.advance(batch.num_rows)
    table.finish()
    return table


def _write_documents(
    version: StoreVersion,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    request: ExportRequest,
    texts: Detokenizer | None,
) -> TableFiles:
    table = TableFiles(folder / "documents", request.layout)
    max_level = max(row["max_level"] for row in rows)
    for split, batch in document_rows(version, rows, max_level, texts):
        table.write(split, batch)
    table.finish()
    return table


def _write_embeddings(
    version: StoreVersion,
    connection: duckdb.DuckDBPyConnection,
    used: Mapping[DocumentKey, None],
    folder: Path,
    request: ExportRequest,
) -> TableFiles:
    """Under the split `train`, since every reader wants one."""
    table = TableFiles(folder / "embeddings", request.layout)
    models = {(key.model_hash, key.dtype) for key in used}
    for row in fetch_rows(connection, "from stored_embeddings order by model_hash, dtype"):
        if (row["model_hash"], row["dtype"]) in models:
            for batch in embedding_rows(version, row):
                table.write("train", batch)
    table.finish()
    return table


def _describe(
    version: StoreVersion,
    connection: duckdb.DuckDBPyConnection,
    request: ExportRequest,
    num_rows: Mapping[str, Mapping[str, int]],
    measured: _Measured,
    run_ids: Sequence[str],
    documents: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Where the rows come from and how they were made, as it is written beside them."""
    kinds = ("model_hash", "tokenizer_hash", "gist_hash", "dtype", "block_size", "max_level")
    provenance = sorted({tuple(row[kind] for kind in kinds) for row in documents})
    runs = fetch_rows(connection, "from runs order by run_id")
    return {
        "mctrace": installed_version("mctrace"),
        "format": request.layout,
        "store_version": version.version,
        "num_rows": num_rows,
        "num_labels": measured.by_estimator.total(),
        "num_by_estimator": dict(sorted(measured.by_estimator.items())),
        "horizons": sorted(measured.horizons),
        "where": request.where,
        "targets": [
            {"column": name, "sql": target_sql(target), "sha256": _sha256(target_sql(target))}
            for name, target in request.target_columns.items()
        ],
        "utility_scale": fetch_rows(connection, read_sql("utility_scale.sql"))[0]["scale"],
        "provenance": [dict(zip(kinds, values, strict=True)) for values in provenance],
        "runs": [{**run, **_parsed(run)} for run in runs if run["run_id"] in set(run_ids)],
    }


def _parsed(run: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration and software as JSON in JSON, not as text."""
    return {name: json.loads(run[name]) for name in ("config", "software") if run[name]}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
