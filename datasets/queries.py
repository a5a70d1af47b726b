"""DuckDB over one version of a store: the views of `views/`, and a locked door for other people's SQL.

The connection reads the ledger's file list directly. The views speak the vocabulary; targets and other
definitions are .sql files, so that they can be read, diffed and hashed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mctrace.context.errors import InputError, StoreError
from mctrace.datasets.fetching import readable_folders
from mctrace.datasets.schemas import TABLES
from mctrace.datasets.store import StoreVersion

VIEWS = (
    "documents",
    "runs",
    "trajectories",
    "effects",
    "snapshots",
    "labels",
    "controls",
    "joint_edits",
    "variants",
    "preference_pairs",
)
"""In the order in which they build upon each other."""

TARGETS = ("priced", "literal")

_REMEDY = "mctrace verify finds damaged files, --skip-damaged reads around them"


def connect(version: StoreVersion) -> duckdb.DuckDBPyConnection:
    """A connection with every view of the version; trusted callers only, see `run_user_sql`."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute("set timezone = 'UTC'")
    if not version.location.is_local:
        connection.register_filesystem(version.location.filesystem)
    for table, schema in TABLES.items():
        connection.register(f"empty_{table}", schema.empty_table())
        connection.execute(f"create view stored_{table} as from empty_{table}")
    for view in VIEWS:
        connection.execute(read_sql("views", f"{view}.sql"))
    # Files come last: making a view opens every file below it, and views stand upon each other.
    for table in TABLES:
        _read_files(connection, version, table)
    _lock(connection, version)
    return connection


def _read_files(connection: duckdb.DuckDBPyConnection, version: StoreVersion, table: str) -> None:
    """The view over a table's files. Only those that may lack columns are all opened for it."""
    relations = [f"from empty_{table}"]
    for todays_columns in (True, False):
        if files := version.table_files(table, todays_columns=todays_columns):
            by_name = str(not todays_columns).lower()
            relations.append(f"from read_parquet({_sql_list(files)}, union_by_name = {by_name})")
    if len(relations) == 1:
        return
    try:
        # The empty table has every column, whatever the files lack.
        connection.execute(
            f"create or replace view stored_{table} as {' union all by name '.join(relations)}"
        )
    except duckdb.Error as error:
        raise StoreError(f"{version.location.uri} is damaged: {error} ({_REMEDY})") from error


def read_sql(*parts: str) -> str:
    """The text of a .sql file of this package."""
    return Path(__file__).parent.joinpath(*parts).read_text(encoding="utf-8")


def target_sql(target: str) -> str:
    """The query of a target by name ("priced", "literal") or from a user's own .sql file."""
    if target in TARGETS:
        return read_sql("targets", f"{target}.sql")
    path = Path(target)
    if path.suffix == ".sql" and path.is_file():
        return path.read_text(encoding="utf-8").strip().rstrip(";")
    raise InputError(f"unknown target {target!r}: one of {', '.join(TARGETS)}, or a .sql file")


def run_user_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer to one read-only statement as an Arrow table.

    Raises InputError when it does not parse, is anything but a query, or fails. Files outside the store,
    extensions and settings are out of reach whatever it says.
    """
    query = _only_query(connection, sql)
    try:
        return connection.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise InputError(f"the SQL fails: {str(error).strip()}{_hint(error)}") from error


def stream_user_sql(
    connection: duckdb.DuckDBPyConnection, sql: str, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """The same, some rows at a time; the connection answers nothing else until the last of them."""
    query = _only_query(connection, sql)
    try:
        yield from connection.sql(query).to_arrow_reader(batch_rows)
    except (duckdb.Error, pa.ArrowException) as error:
        raise InputError(f"the SQL fails: {str(error).strip()}{_hint(error)}") from error


def _hint(error: Exception) -> str:
    """What to do where it is not the query that is wrong."""
    return f"\n({_REMEDY})" if ".parquet" in str(error) else ""


def _only_query(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"the SQL does not parse: {str(error).strip()}") from error
    if len(statements) != 1:
        raise InputError(f"expected one SQL statement, got {len(statements)}")
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise InputError(
            f"only queries are run here, not {statements[0].type.name}: the store is read-only to SQL"
        )
    return str(statements[0].query)


def fetch_rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Rows of one of our own queries as dictionaries. Raises StoreError when it fails."""
    try:
        rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        refused = isinstance(error, duckdb.InvalidInputException)  # a view's own error(...) says what to do
        hint = "" if refused else f"\n({_REMEDY})"
        raise StoreError(f"{str(error).strip()}{hint}") from error
    return rows


def _lock(connection: duckdb.DuckDBPyConnection, version: StoreVersion) -> None:
    """Nothing but the store's own parts can be read from here on, and no setting changed back."""
    connection.execute(f"set allowed_directories = {_sql_list(readable_folders(version.location))}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _sql_list(texts: list[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
