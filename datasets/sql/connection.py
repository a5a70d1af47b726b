"""DuckDB connection over one version of a store: opened with every view, then locked.

It reads the files that the ledger lists, by name, through a file system that can only read
(`read_only_files`), and nothing else. `registry` defines the views; `user_queries` runs other people's SQL.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.read_only_files import ROOT, ReadOnlyFiles
from mctrace.datasets.sql.registry import define_views
from mctrace.datasets.sql.token_scan import TokenScan
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.schemas import DATASET_COMMITS, TABLES
from mctrace.datasets.store.store import DAMAGE_REMEDY, DERIVED_TABLES, StoreVersion
from mctrace.errors import StoreError


def connect(
    version: StoreVersion,
    *,
    settings: Mapping[str, object] | None = None,
    limits: SqlLimits | None = None,
    files: Mapping[str, Path] | None = None,
    rows: Mapping[str, Path] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Connection with every view of the version, which reads the store's tables and writes only its scratch.

    SQL of other people still goes through `run_user_sql`. `settings` are DuckDB's. `files` are further local
    files by name, which SQL reads as `file_url(name)`. `rows` are Parquet files of a derived dataset that the
    store does not keep, by table: what is read through them is read in place of the version's own dataset.
    Raises StoreError for damaged tables.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
    )
    connection.execute("set timezone = 'UTC'")
    for name, value in {**(limits or SqlLimits()).settings(), **(settings or {})}.items():
        connection.execute(f"set {name} = {sql_literal(str(value))}")
    # Before any table: creating a view opens its files.
    rows = rows or {}
    tables = {table: _table_files(version, table) for table in TABLES if table not in rows}
    named = {name: place for groups in tables.values() for group in groups for name, place in group.items()}
    more = {**(files or {}), **{f"{table}.parquet": path for table, path in rows.items()}}
    named |= {name: (Location.of(str(path)).filesystem, str(path)) for name, path in more.items()}
    connection.register_filesystem(ReadOnlyFiles(named))
    for table, schema in TABLES.items():
        connection.register(f"empty_{table}", schema.empty_table())
        connection.execute(f"create view stored_{table} as from empty_{table}")
    connection.register("stored_document_tokens", TokenScan(version))
    connection.register("stored_dataset_commits", _dataset_commits(version))
    define_views(connection, tuple(rows) or version.derived_tables)
    # Files come last: creating a macro opens every file below it.
    for table, (todays, earlier) in tables.items():
        _read_files(connection, version, table, list(todays), list(earlier))
    for table in rows:
        _read_files(connection, version, table, [f"{table}.parquet"], [])
    _lock(connection)
    return connection


def _dataset_commits(version: StoreVersion) -> pa.Table:
    """When each derived dataset was committed; a part's bytes hold no time, so that they stay the same."""
    found = {part.part_id: name for name, part in version.datasets.items()}
    rows = [
        {"name": found[c.part.part_id], "committed_at": c.committed_at}
        for c in version.parts
        if c.part.part_id in found
    ]
    return pa.Table.from_pylist(rows, schema=DATASET_COMMITS)


def file_url(name: str) -> str:
    """URL by which SQL reads one of the further `files` of `connect`."""
    return f"{ROOT}{name}"


_Files = dict[str, tuple[Any, str]]
"""name in SQL -> the file system that has the file, and its path there"""


def _table_files(version: StoreVersion, table: str) -> tuple[_Files, _Files]:
    """A table's files that have every current column, and those that may lack some.

    A name holds only the path within the store, so that the store's own path may contain anything.
    """
    location = version.location
    local = Location.of(".").filesystem

    def named(path: str) -> tuple[str, tuple[Any, str]]:
        within = path.removeprefix(f"{location.root if location.is_local else location.uri}/")
        if within != path:
            return within, (location.filesystem, path)
        return f"fetched/{Path(path).name}", (local, path)

    todays, earlier = (
        dict(map(named, version.table_files(table, todays_columns=todays))) for todays in (True, False)
    )
    return todays, earlier


def _read_files(
    connection: duckdb.DuckDBPyConnection,
    version: StoreVersion,
    table: str,
    todays: Sequence[str],
    earlier: Sequence[str],
) -> None:
    """Creates the view over a table's files.

    DuckDB opens each file that may lack columns, and one of the others. Raises StoreError.
    """
    relations = [
        f"from read_parquet({_sql_list([file_url(name) for name in names])}, union_by_name = {by_name})"
        for names, by_name in ((todays, "false"), (earlier, "true"))
        if names
    ]
    if not relations:
        return
    if table not in DERIVED_TABLES:
        relations.insert(0, f"from empty_{table}")  # it has every column, whatever the files lack
    try:
        connection.execute(
            f"create or replace view stored_{table} as {' union all by name '.join(relations)}"
        )
    except duckdb.Error as error:
        what = str(error).partition("\n")[0]
        raise StoreError(f"{version.location.uri} is damaged: {what} ({DAMAGE_REMEDY})") from error


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Allows only the names of the read-only file system, and no change of settings.

    DuckDB adds its own scratch folder, without which it could not spill.
    """
    connection.execute("set show_behavior = 'table'")  # otherwise `show NAME` reveals a setting
    connection.execute(f"set allowed_directories = {_sql_list([ROOT])}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def fetch_rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Rows of one of our own queries as dictionaries. Raises StoreError when it fails."""
    try:
        rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        text = error_text(error)
        # A view's own error(...) names its remedy.
        if not isinstance(error, duckdb.InvalidInputException) and DAMAGE_REMEDY not in text:
            text = f"{text}\n({DAMAGE_REMEDY})"
        raise StoreError(text) from error
    return rows


def error_text(error: Exception) -> str:
    """Message of DuckDB's error, with the remedy where a damaged file is the cause.

    An error that one of our own scans raised keeps that error's message.
    """
    text = str(error).strip()
    _, raised_here, message = text.rpartition(f"{StoreError.__module__}.{StoreError.__qualname__}: ")
    if raised_here:
        return message
    return f"{text}\n({DAMAGE_REMEDY})" if ".parquet" in text else text


def sql_literal(text: str) -> str:
    """A text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _sql_list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(sql_literal, texts)) + "]"
