"""DuckDB over one version of a store: the views of `views/`, and a locked door for other people's SQL.

The connection reads the ledger's file list directly. The views speak the vocabulary; targets and other
definitions are .sql files, so that they can be read, diffed and hashed. Where the version is read through a
derived dataset, the definitions in `views/derived/` stand in place of those of the same name.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.document_tokens import DocumentTokens
from mctrace.datasets.store.fetching import readable_folders
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import DAMAGE_REMEDY, DERIVED_TABLES, StoreVersion
from mctrace.errors import InputError, StoreError

T = TypeVar("T")

VIEWS = (
    "documents",
    "runs",
    "datasets",
    "trajectories",
    "snapshots",
    "effects",
    "labels",
    "token_effects",
    "octaves",
    "audits",
    "controls",
    "joint_edits",
    "variants",
    "preference_pairs",
    "entries",
    "shadow_prices",
    "vocabulary",
    "document_tokens",
)
"""What people ask; `views/columns.toml` says what each column means."""

MACROS = (
    "labels_at",
    "drawn_labels",
    "drawn_token_effects",
    "drawn_octaves",
    "drawn_trajectories",
    "controls_at",
    "joint_edits_at",
    "entry_targets",
)
"""Views that take an argument."""

TARGETS = ("value", "priced", "literal", "priced_standardised", "literal_standardised")
"""Each is also a view, <name>_target."""

OWN_TARGETS = "targets"
"""The folder beside pipeline.toml in which a user's own NAME.sql is a target called NAME."""

_DEFINITIONS = (
    "chance",
    "documents",
    "vocabulary",
    "runs",
    "datasets",
    "trajectories",
    "snapshot_cursors",
    "snapshots",
    "effects",
    "drawn_trajectories",
    "measured",
    "octaves",
    "labels",
    "audits",
    "controls",
    "joint_edits",
    "variants",
    "preference_pairs",
    "entries",
    "balancing_prices",
    "shadow_prices",
)
"""Files of `views/` in the order in which they build upon each other."""


def connect(
    version: StoreVersion, *, settings: Mapping[str, object] | None = None, writable: Sequence[Path] = ()
) -> duckdb.DuckDBPyConnection:
    """A connection with every view of the version; trusted callers only, see `run_user_sql`: DuckDB opens the
    store's folders for reading and writing alike, so that SQL which is no query could write into parts.

    `settings` are DuckDB's. `writable` are local files that trusted SQL may write besides reading the
    store's.
    """
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "python_enable_replacements": "false"}
    )
    connection.execute("set timezone = 'UTC'")
    for name, value in (settings or {}).items():
        connection.execute(f"set {name} = '{value}'")
    if not version.location.is_local:
        connection.register_filesystem(version.location.filesystem)
    for table, schema in TABLES.items():
        connection.register(f"empty_{table}", schema.empty_table())
        connection.execute(f"create view stored_{table} as from empty_{table}")
    connection.register("document_tokens", DocumentTokens(version))
    define_views(connection, version.derived_tables)
    # Files come last: making a view opens every file below it, and views stand upon each other.
    for table in TABLES:
        _read_files(connection, version, table)
    _lock(connection, version, writable)
    return connection


def define_views(connection: duckdb.DuckDBPyConnection, derived: Sequence[str] = ()) -> None:
    """Views, macros and targets over the tables `stored_...`; `derived`: those that hold a dataset."""
    replaced = {name for table in derived for name in _OF_DERIVED[table]}
    for name in _DEFINITIONS:
        connection.execute(read_sql("views", *(("derived",) if name in replaced else ()), f"{name}.sql"))
    for target in TARGETS:
        connection.execute(f"create view {target}_target as {read_sql('targets', f'{target}.sql')}")
    connection.execute(f"create view utility_scale as {read_sql('utility_scale.sql')}")
    connection.execute(read_sql("views", "entry_targets.sql"))


_OF_DERIVED = {
    "derived_labels": ("labels", "snapshot_cursors", "shadow_prices"),
    "derived_pairs": ("preference_pairs",),
}
"""Definitions that read otherwise when a derived dataset holds rows of a table."""


def _read_files(connection: duckdb.DuckDBPyConnection, version: StoreVersion, table: str) -> None:
    """The view over a table's files. Only those that may lack columns are all opened for it."""
    relations = []
    for todays_columns in (True, False):
        if files := version.table_files(table, todays_columns=todays_columns):
            by_name = str(not todays_columns).lower()
            relations.append(f"from read_parquet({_sql_list(files)}, union_by_name = {by_name})")
    if not relations:
        return
    if table not in DERIVED_TABLES:
        relations.insert(0, f"from empty_{table}")  # which has every column, whatever the files lack
    try:
        connection.execute(
            f"create or replace view stored_{table} as {' union all by name '.join(relations)}"
        )
    except duckdb.Error as error:
        raise StoreError(f"{version.location.uri} is damaged: {error} ({DAMAGE_REMEDY})") from error


def read_sql(*parts: str) -> str:
    """The text of a .sql file, or another one, of this package."""
    return Path(__file__).parent.joinpath(*parts).read_text(encoding="utf-8")


def target_sql(target: str) -> str:
    """The query of a target by name, from targets/NAME.sql where one works, or from any .sql file."""
    if target in TARGETS:
        return read_sql("targets", f"{target}.sql")
    _, text = own_sql("target", target, OWN_TARGETS, TARGETS)
    return text.strip().rstrip(";")


def own_sql(kind: str, name: str, folder: str, shipped: Sequence[str]) -> tuple[Path, str]:
    """A user's own definition, FOLDER/NAME.sql or any .sql file: the file and its text.

    Raises InputError where there is none, naming the `shipped` ones, or where it cannot be read.
    """
    is_file = name.endswith(".sql")
    named = Path(folder, name if is_file else f"{name}.sql")
    path = next((path for path in (named, Path(name)) if path.suffix == ".sql" and path.is_file()), None)
    if path is None and is_file:
        raise InputError(f"no {kind} {name!r}: there is no such file, here or in {folder}/")
    if path is None:
        raise InputError(
            f"unknown {kind} {name!r}: one of {', '.join(shipped)}, a file {named}, or any other .sql file"
        )
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the {kind} {path} cannot be read: {error}") from error


def run_user_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer to one read-only statement as an Arrow table; see `stream_user_sql`."""
    return stream_user_sql(connection, sql).read_all()


def stream_user_sql(
    connection: duckdb.DuckDBPyConnection, sql: str, batch_rows: int = 100_000
) -> pa.RecordBatchReader:
    """The answer to one read-only statement, batch by batch; the connection answers nothing else until then.

    `describe VIEW` answers with what each column means. Raises InputError when the statement does not parse,
    is anything but a query, or fails, which may be in the middle. Files outside the store, extensions and
    settings are out of reach whatever it says.
    """
    query = single_query(connection, sql)
    described = _DESCRIBE.fullmatch(query)
    if described and (columns := _describe(connection, described[1])):
        return columns.to_reader()
    reader = _ask(connection, lambda: connection.sql(query).to_arrow_reader(batch_rows))
    assert reader is not None, "a query has an answer"
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader))


_DESCRIBE = re.compile(r"\s*(?:describe|desc)\s+\"?(\w+)\"?\s*;?\s*", re.IGNORECASE)
_EXPLAIN = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b\s*(?:analyze\b\s*)?(?:\(.*?\))?", re.I | re.S)


def single_query(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The one query in `sql`, as DuckDB reads it. Raises InputError when it is anything else.

    `explain analyze` runs what it explains, so that has to be a query as well.
    """
    try:
        statements = connection.extract_statements(sql)
        if len(statements) == 1 and _kind(statements[0]) == "EXPLAIN":
            inner = connection.extract_statements(_EXPLAIN.sub("", sql, count=1))
        else:
            inner = statements
    except duckdb.Error as error:
        raise InputError(f"the SQL does not parse: {str(error).strip()}") from error
    if len(statements) != 1:
        raise InputError(f"expected one SQL statement, got {len(statements)}")
    if [_kind(statement) for statement in inner] != ["SELECT"]:
        raise InputError(
            f"only queries are run here, not {_kind(inner[0]) if inner else 'nothing'}: "
            "the store is read-only to SQL"
        )
    return statements[0].query


def explained(error: Exception) -> str:
    """What DuckDB says, and what to do where it is not the query that is wrong; of an error raised in a scan
    of ours, what that one says.
    """
    text = str(error).strip()
    _, raised_here, said = text.rpartition(f"{StoreError.__module__}.{StoreError.__qualname__}: ")
    if raised_here:
        return said
    return f"{text}\n({DAMAGE_REMEDY})" if ".parquet" in text else text


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # DuckDB has statements that its Python enumeration lacks
        return "such a statement"


def _batches(connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while (batch := _ask(connection, lambda: next(reader, None))) is not None:
        yield batch


def _ask(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Runs `work` in a thread, since DuckDB looks for no signal while it works: so Ctrl-C is heard here."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(work)
        try:
            return answer.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise InputError(f"the SQL fails: {explained(error)}") from error


def _describe(connection: duckdb.DuckDBPyConnection, view: str) -> pa.Table | None:
    """Name, type and meaning of each column of one of our views; None for anything else."""
    known = {*VIEWS, *(f"{target}_target" for target in TARGETS)}
    if view.lower() not in known:
        return None
    meanings = column_comments()
    columns = connection.sql(f"describe {view}").to_arrow_table()
    names = columns["column_name"].to_pylist()
    return pa.table(
        {
            "column_name": names,
            "column_type": columns["column_type"],
            "meaning": [
                meanings.get((view.lower(), name)) or meanings.get(("any", name), "") for name in names
            ],
        }
    )


def column_comments() -> dict[tuple[str, str], str]:
    """What columns mean, by (view, column); the view is "any" for a name that means the same everywhere."""
    sections = tomllib.loads(read_sql("views", "columns.toml"))
    return {(view, column): text for view, texts in sections.items() for column, text in texts.items()}


def set_variables(connection: duckdb.DuckDBPyConnection, sql: str, variables: Mapping[str, object]) -> None:
    """Sets what `sql` reads with getvariable('...'). Raises InputError for one that it does not read."""
    read = variables_of(sql)
    for name, value in variables.items():
        if name not in read:
            known = ", ".join(sorted(read)) or "none"
            raise InputError(f"the SQL reads no variable {name!r}; it reads {known}")
        connection.execute(f"set variable {name} = $1", [value])


def variables_of(sql: str) -> set[str]:
    """The names that `sql` reads with getvariable('...')."""
    return set(re.findall(r"getvariable\(\s*'(\w+)'\s*\)", sql))


def fetch_rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Rows of one of our own queries as dictionaries. Raises StoreError when it fails."""
    try:
        rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        text = explained(error)
        # A view's own error(...) says itself what to do.
        if not isinstance(error, duckdb.InvalidInputException) and DAMAGE_REMEDY not in text:
            text = f"{text}\n({DAMAGE_REMEDY})"
        raise StoreError(text) from error
    return rows


def _lock(connection: duckdb.DuckDBPyConnection, version: StoreVersion, writable: Sequence[Path]) -> None:
    """Nothing but the store's own parts can be read from here on, and no setting changed back."""
    connection.execute(f"set allowed_directories = {_sql_list(readable_folders(version.location))}")
    connection.execute(f"set allowed_paths = {_sql_list([str(path) for path in writable])}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def sql_text(text: str) -> str:
    """The text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _sql_list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(sql_text, texts)) + "]"
