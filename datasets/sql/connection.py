"""DuckDB over one version of a store: the views of `views/`, and a locked door for other people's SQL.

The connection reads the files of the ledger's list by name, through a file system that can only read
(`read_only_files.py`), and nothing else; what other people's SQL may say is decided before (`user_sql.py`).
The views speak the vocabulary; targets and other definitions are .sql files, so that they can be read, diffed
and hashed. Where the version is read through a derived dataset, the definitions in `views/derived/` stand in
place of those of the same name.
"""

import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.document_tokens import DocumentTokens
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.read_only_files import ROOT, ReadOnlyFiles
from mctrace.datasets.sql.sandbox import UserQuery, user_query
from mctrace.datasets.store.location import Location
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
    version: StoreVersion,
    *,
    settings: Mapping[str, object] | None = None,
    limits: SqlLimits | None = None,
    files: Mapping[str, Path] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection with every view of the version, which can read the store's tables and write no file but
    its own scratch; SQL of other people still goes through `run_user_sql`.

    `settings` are DuckDB's. `files` are further local files by name, which SQL reads as `file_url(name)`.
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
        connection.execute(f"set {name} = {sql_text(str(value))}")
    # Before any table: a view opens its files when it is made.
    tables = {table: _table_files(version, table) for table in TABLES}
    named = {name: place for groups in tables.values() for group in groups for name, place in group.items()}
    named |= {name: (Location.of(str(path)).filesystem, str(path)) for name, path in (files or {}).items()}
    connection.register_filesystem(ReadOnlyFiles(named))
    for table, schema in TABLES.items():
        connection.register(f"empty_{table}", schema.empty_table())
        connection.execute(f"create view stored_{table} as from empty_{table}")
    connection.register("document_tokens", DocumentTokens(version))
    define_views(connection, version.derived_tables)
    # Files come last: making a view opens every file below it, and views stand upon each other.
    for table, (todays, earlier) in tables.items():
        _read_files(connection, version, table, list(todays), list(earlier))
    _lock(connection)
    return connection


def file_url(name: str) -> str:
    """What SQL reads one of the further `files` of `connect` as."""
    return f"{ROOT}{name}"


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


_Files = dict[str, tuple[Any, str]]
"""name in SQL -> the file system that has the file, and its path there"""


def _table_files(version: StoreVersion, table: str) -> tuple[_Files, _Files]:
    """A table's files that have today's columns, and those that may lack some.

    Only the place within the store is part of a name, so that the store's own path can be any.
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
    """The view over a table's files. Only those that may lack columns are all opened for it."""
    relations = [
        f"from read_parquet({_sql_list([file_url(name) for name in names])}, union_by_name = {by_name})"
        for names, by_name in ((todays, "false"), (earlier, "true"))
        if names
    ]
    if not relations:
        return
    if table not in DERIVED_TABLES:
        relations.insert(0, f"from empty_{table}")  # which has every column, whatever the files lack
    try:
        connection.execute(
            f"create or replace view stored_{table} as {' union all by name '.join(relations)}"
        )
    except duckdb.Error as error:
        what = str(error).partition("\n")[0]
        raise StoreError(f"{version.location.uri} is damaged: {what} ({DAMAGE_REMEDY})") from error


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


def run_user_sql(connection: duckdb.DuckDBPyConnection, sql: str, *, timeout_seconds: float = 0) -> pa.Table:
    """The answer to one read-only statement as an Arrow table; see `stream_user_sql`."""
    return stream_user_sql(connection, sql, timeout_seconds=timeout_seconds).read_all()


def stream_user_sql(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    batch_rows: int = 100_000,
    *,
    timeout_seconds: float = 0,
) -> pa.RecordBatchReader:
    """The answer to one read-only statement, batch by batch; the connection answers nothing else until then.

    `describe VIEW` answers with what each column means. Raises InputError when the statement does not parse,
    is anything but a query, or fails, which may be in the middle, or works longer than `timeout_seconds` (0:
    any). Files outside the store, extensions and settings are out of reach whatever it says.
    """
    query = user_query(sql)
    clock = _Clock(timeout_seconds)
    if query.explain:
        return _ask(connection, lambda: _explain(connection, query), clock).to_reader()
    described = _DESCRIBE.fullmatch(query.text)
    if described and (columns := _describe(connection, described[1])):
        return columns.to_reader()
    reader = _ask(connection, lambda: connection.sql(query.text).to_arrow_reader(batch_rows), clock)
    assert reader is not None, "a query has an answer"
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader, clock))


_DESCRIBE = re.compile(r"\s*(?:describe|desc)\s+\"?(\w+)\"?\s*", re.IGNORECASE)
"""Our own answer in place of DuckDB's, where the text is plainly this; no decision hangs on it."""


def _explain(connection: duckdb.DuckDBPyConnection, query: UserQuery) -> pa.Table:
    """The plan, of DuckDB's own making and not of a text that says what to explain."""
    relation = connection.sql(query.text)
    plan = relation.explain(analyze=query.explain == "analyze", format=query.explain_format or "text")
    return pa.table({"plan": [plan]})


def explained(error: Exception) -> str:
    """What DuckDB says, and what to do where it is not the query that is wrong; of an error raised in a scan
    of ours, what that one says.
    """
    text = str(error).strip()
    _, raised_here, said = text.rpartition(f"{StoreError.__module__}.{StoreError.__qualname__}: ")
    if raised_here:
        return said
    return f"{text}\n({DAMAGE_REMEDY})" if ".parquet" in text else text


class _Clock:
    """Seconds that one statement may still work; the time between its batches is its reader's."""

    def __init__(self, seconds: float) -> None:
        self.allowed = seconds
        self.left = seconds or None

    def spend(self, seconds: float) -> None:
        if self.left is not None:
            self.left = max(0.0, self.left - seconds)


def _batches(
    connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader, clock: _Clock
) -> Iterator[pa.RecordBatch]:
    while (batch := _ask(connection, lambda: next(reader, None), clock)) is not None:
        yield batch


def _ask(connection: duckdb.DuckDBPyConnection, work: Callable[[], T], clock: _Clock) -> T:
    """Runs `work` in a thread, since DuckDB looks for no signal while it works: so Ctrl-C is heard here."""
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(work)
        try:
            wait([answer], clock.left)
            if not answer.done():
                connection.interrupt()
                raise InputError(
                    f"the SQL works longer than {clock.allowed:g} s: ask for less (where, limit, "
                    "drawn_labels(300)), or allow more with --timeout (0: any)"
                )
            found = answer.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise
        except duckdb.OutOfMemoryException as error:
            raise InputError(f"the SQL needs more memory than it may take: {_OF_MEMORY}") from error
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise InputError(f"the SQL fails: {explained(error)}") from error
    clock.spend(time.monotonic() - started)
    return found


_OF_MEMORY = (
    "ask for less (where, limit, drawn_labels(300)), or allow more with --set sql.memory=8GB or "
    "--set sql.spill=50GB"
)


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


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Nothing but the names of the read-only file system, and no setting changed back. DuckDB adds its own
    scratch folder, without which it could not spill."""
    connection.execute("set show_behavior = 'table'")  # else `show NAME` tells a setting
    connection.execute(f"set allowed_directories = {_sql_list([ROOT])}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def sql_text(text: str) -> str:
    """The text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _sql_list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(sql_text, texts)) + "]"
