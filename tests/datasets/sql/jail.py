"""Attempts to get out of SQL: to write, to read what is no view, to change settings. None may succeed.

`run_attempts(store)` counts without pytest. An attempt has escaped when the store's bytes or its folder's
neighbours changed, when something outside was read, or when a statement that is no query was run.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError

SECRET = "canary-9c1f"
"""Content of a file beside the store; an answer that holds it was read from outside."""


def attempts(store: Store) -> list[str]:
    """Statements, over paths of the store and of files beside it."""
    part = store.at().table_files("effects")[0]
    outside = Path(store.location.root).parent
    paths = {
        "part": part,
        "url": "mctrace://" + part.removeprefix(f"{store.location.root}/"),
        "secret": str(outside / "secret.csv"),
        "new": str(outside / "stolen.csv"),
        "folder": str(outside / "stolen"),
        "store": store.location.root,
    }
    return [text.format(**paths) for text in _all_texts()]


def run_attempts(store: Store) -> tuple[int, int]:
    """How many attempts were made, and how many of them escaped."""
    return count(store, attempts(store))


def count(store: Store, statements: Sequence[str]) -> tuple[int, int]:
    """The same for these statements."""
    return len(statements), sum(1 for _ in escapes(store, statements))


def escapes(
    store: Store, statements: Sequence[str], connection: duckdb.DuckDBPyConnection | None = None
) -> Iterator[tuple[str, str]]:
    """Those that escaped, and how."""
    outside = Path(store.location.root).parent
    if not (outside / "secret.csv").exists():
        (outside / "secret.csv").write_text(f"{SECRET}\n" * 2)
    before, connection = fingerprint(outside), connection or connect(store.at())
    for statement in statements:
        how = attempt(connection, statement)
        if (after := fingerprint(outside)) != before:
            how, before = "files changed", after
        if how:
            yield statement, how


def attempt(
    connection: duckdb.DuckDBPyConnection,
    statement: str,
    run: Callable[[duckdb.DuckDBPyConnection, str], pa.Table] = run_user_sql,
) -> str | None:
    """What went wrong, None where nothing did: a refusal, or an answer without anything from outside."""
    try:
        answer = run(connection, statement)
    except InputError:
        return None
    return "read from outside" if SECRET in f"{answer.schema} {answer.to_pylist()}" else None


def fingerprint(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes with any write to a file or folder below, even where its time is set back."""
    found = {str(path): path.lstat() for path in folder.rglob("*")}
    return {
        name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found.items()
    }


READERS = [
    "from read_text('{secret}')", "from read_blob('{secret}')", "from read_csv('{secret}')",
    "from read_csv_auto('{secret}')", "from read_json('{secret}')", "from read_json_auto('{secret}')",
    "from read_json_objects('{secret}')", "from read_ndjson('{secret}')", "from read_parquet('{secret}')",
    "from parquet_scan('{secret}')", "from parquet_metadata('{part}')", "from parquet_schema('{url}')",
    "from parquet_file_metadata('{url}')", "from parquet_kv_metadata('{url}')",
    "from parquet_full_metadata('{url}')", "from parquet_bloom_probe('{url}', 'action', 'x')",
    "from sniff_csv('{secret}')", "from read_duckdb('{secret}')", "from read_single_csv_file('{secret}')",
    "from glob('{store}/*')", "from glob('mctrace://*')", "from '{secret}'", "from \"{secret}\"",
    "from '{part}'", "from '{url}'", "from read_text('{url}')", "from read_blob('{url}')",
    "from 'https://example.com/data.csv'", "from 's3://bucket/data.parquet'", "from secret.csv",
    "from '/etc/passwd'", "from read_text('/etc/passwd')", "from read_text(['/etc/passwd', '{secret}'])",
    "from read_text('file://{secret}')", "from read_text('/proc/self/environ')",
    "select content from read_text('{secret}') as t(f, content)", "describe '{secret}'",
    "summarize '{secret}'",
    "show '{secret}'", "select (select content from read_text('{secret}'))",
    "with s as (from read_text('{secret}')) from s", "with s as materialized (from '{secret}') from s",
    "with recursive s as (from read_text('{secret}') union all from s) from s limit 1",
    "from labels where action in (from '{secret}')", "from labels order by (from '{secret}')",
    "from labels join '{secret}' on true", "from labels, lateral (from '{secret}')",
    "from labels semi join read_text('{secret}') on true",
    "pivot '{secret}' on column0 in ('a') using count(*)",
    "unpivot '{secret}' on column0 into name n value v",
    "values ((select content from read_text('{secret}')))",
    "from query('from read_text(''{secret}'')')", "from query('fr' || 'om ''{secret}''')",
    "from query_table('{secret}')", "from query_table(['{secret}'])",
    "from json_execute_serialized_sql(json_serialize_sql('from ''{secret}'''))",
    "select json_serialize_plan('from ''{secret}''')", "from histogram('{secret}', column0)",
    "from delta_scan('{store}')", "from sqlite_scan('{store}', 't')", "from iceberg_scan('{store}')",
    "from postgres_scan('host=localhost', 'a', 'b')", "from st_read('{secret}')",
    "from read_xlsx('{secret}')",
    "select getenv('HOME')", "select current_setting('temp_directory')", "from duckdb_settings()",
    "from duckdb_secrets()", "from which_secret('s3://x', 's3')", "from duckdb_extensions()",
    "from duckdb_temporary_files()", "from duckdb_logs()", "from pg_settings", "from pragma_database_list",
    "from duckdb_external_file_cache()", "show secret_directory", "from arrow_scan(1, 2, 3)",
    "from python_map_function(1)", "from seq_scan()", "from system.main.read_text('{secret}')",
    "from \"READ_TEXT\"('{secret}')", "from memory.main.'{secret}'", "from main.\"{secret}\"",
]  # fmt: skip
"""They would read what is no view."""

WRITERS = [
    "copy (select 1) to '{new}'", "copy labels to '{part}'", "copy (select 1) to '{url}'",
    "copy (select 1) to '{folder}' (format parquet, partition_by (i))",
    "copy (select 1) to '{part}' (overwrite true)", "copy (select 1) to '{store}' (overwrite true)",
    "copy (select 1) to '/dev/stdout'", "copy empty_effects from '{secret}'",
    "copy from database memory to x",
    "export database '{folder}'", "import database '{folder}'", "attach '{folder}.db'", "attach '{part}'",
    "attach '{folder}.db' as x (read_write)", "attach ':memory:' as x", "detach memory", "use memory",
    "install httpfs", "load httpfs", "load '{folder}.duckdb_extension'", "force install httpfs",
    "update extensions", "create table x as select 1", "create temp table x as select 1",
    "create view x as select 1",
    "create macro x() as 1", "create or replace view labels as select 1", "create schema x",
    "create sequence x",
    "create type x as enum ('a')", "create index i on labels (action)",
    "create secret x (type s3, key_id 'x')",
    "create persistent secret x (type s3)", "drop secret x", "drop view labels", "drop table if exists x",
    "alter view labels rename to x", "comment on view labels is 'x'", "insert into empty_effects values (1)",
    "update documents set split = 'train'", "delete from effects", "truncate effects",
    "merge into effects using labels on true when matched then delete", "begin", "commit", "rollback",
    "checkpoint", "vacuum", "analyze", "prepare x as select 1", "execute x", "deallocate x",
    "set enable_external_access = true", "set allowed_paths = ['{secret}']",
    "set global lock_configuration = false",
    "set temp_directory = '{folder}'", "set variable h = 3", "reset enable_external_access",
    "set disabled_filesystems = ''", "pragma enable_profiling", "pragma database_list",
    "pragma enable_external_access = true", "pragma profiling_output = '{new}'", "call enable_logging()",
    "call pragma_version()", "call checkpoint()", "from checkpoint()", "from force_checkpoint()",
    "from enable_logging()", "from enable_logging(storage := 'file', storage_path := '{folder}')",
    "from enable_profiling(save_location := '{new}')", "from disable_logging()",
    "from truncate_duckdb_logs()",
    "from create_external_resource('x', 'y')", "from register_external_resource('x', 'y')",
    "from destroy_external_resource('x')", "select write_log('x')", "select nextval('x')",
    "select setval('x', 1)",
    "select sleep_ms(1)", "from query('copy (select 1) to ''{new}''')", "select 1; select 2",
    "select 1; copy (select 1) to '{new}'", "select 1;; drop view labels", "select 1\0; drop view labels",
    "pivot labels on action", "", ";", "-- nothing", "/* nothing */",
    "with a as (copy (select 1) to '{part}') from a", "with a as (copy (select 1) to '{new}') select 1",
    "with a as (copy labels to '{url}') from a", "with a as (insert into empty_effects values (1)) from a",
    "with a as (delete from stored_effects returning *) from a",
    "with a as (update stored_effects set action = 'x' returning *) from a",
    "with a as (with b as (copy (select 1) to '{new}') from b) from a",
    "from (with a as (copy (select 1) to '{new}') from a)",
    "select (with a as (copy (select 1) to '{new}') from a)",
    "with recursive a as (copy (select 1) to '{new}') from a",
    "with a as materialized (copy labels to '{new}') from a",
    "with b as (select 1), a as (copy (from b) to '{part}' (format parquet)) from b",
    "(with a as (copy (select 1) to '{new}') from a)",
    "describe with a as (copy (select 1) to '{new}') from a",
    "summarize with a as (copy (select 1) to '{new}') from a",
]  # fmt: skip
"""They would write, or change what is there."""

EXPLAINED = [
    "copy (select 1) to '{part}'", "copy (select 1) to '{new}' (format csv)", "drop view labels",
    "create table x as select 1", "with a as (copy (select 1) to '{new}') from a",
    "from read_text('{secret}')",
]  # fmt: skip

EXPLAINS = [
    "explain {0}", "explain analyze {0}", "explain (analyze) {0}", "explain (analyze, format json) {0}",
    "EXPLAIN/**/ANALYZE/**/{0}", "explain analyze /* not */ {0}", "explain (analyze /*) select 1 --*/) {0}",
    "/* /* */ explain select 1 -- */ explain analyze {0}", "explain analyze select 1; explain analyze {0}",
    "explain (analyze --) select 1\n) {0}", "-- explain select 1\nexplain analyze {0}",
    "explain analyze\v{0}", "\ufeffexplain analyze {0}", "explain\u00a0analyze\u00a0{0}",
    "explain ( /* ( */ analyze /* ) select 1 */ ) {0}", "explain (format $$json$$, analyze) {0}",
]  # fmt: skip
"""Both ways in which COPY was once run, and their relatives."""


def _all_texts() -> list[str]:
    explained = (e.format(inner) for e, inner in itertools.product(EXPLAINS, map(_escaped, EXPLAINED)))
    return [*READERS, *WRITERS, *(text.replace("{{", "{").replace("}}", "}") for text in explained)]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
