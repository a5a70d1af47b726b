"""Running other people's SQL: one read-only query, its answer in batches, within a time limit.

`sandbox` decides what such SQL may be; the connection it runs on could not write in any case.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.connection import error_text
from mctrace.datasets.sql.describe import describe, described_view, list_views, lists_views
from mctrace.datasets.sql.sandbox import UserQuery, user_query
from mctrace.errors import InputError

T = TypeVar("T")


def run_user_sql(connection: duckdb.DuckDBPyConnection, sql: str, *, timeout_seconds: float = 0) -> pa.Table:
    """Answer to one read-only statement as an Arrow table; see `stream_user_sql`."""
    return stream_user_sql(connection, sql, timeout_seconds=timeout_seconds).read_all()


def stream_user_sql(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    batch_rows: int = 100_000,
    *,
    timeout_seconds: float = 0,
) -> pa.RecordBatchReader:
    """Answer to one read-only statement, batch by batch; the connection is busy until the last batch.

    `describe VIEW` gives the meaning of each column, `show tables` what a row of each view is. Raises
    InputError when the statement does not parse, is not a query, fails, possibly between two batches, or
    works longer than `timeout_seconds` (0: no limit). Files outside the store, extensions and settings are
    out of reach of any statement.
    """
    query = user_query(sql)
    clock = _Clock(timeout_seconds)
    if query.explain:
        return _ask(connection, lambda: _explain(connection, query), clock).to_reader()
    if view := described_view(query.text):
        return describe(connection, view).to_reader()
    if lists_views(query.text):
        return list_views().to_reader()
    reader = _ask(connection, lambda: connection.sql(query.text).to_arrow_reader(batch_rows), clock)
    assert reader is not None, "a query has an answer"
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader, clock))


def _explain(connection: duckdb.DuckDBPyConnection, query: UserQuery) -> pa.Table:
    """Query plan, asked of DuckDB for the checked query; the statement as written is never run."""
    relation = connection.sql(query.text)
    plan = relation.explain(analyze=query.explain == "analyze", format=query.explain_format or "text")
    return pa.table({"plan": [plan]})


class _Clock:
    """Seconds of work left to one statement; time that the reader spends between batches does not count."""

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
    """Runs `work` in a thread: DuckDB ignores signals while it works, so Ctrl-C is handled here."""
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
            raise InputError(f"the SQL fails: {error_text(error)}") from error
    clock.spend(time.monotonic() - started)
    return found


_OF_MEMORY = (
    "ask for less (where, limit, drawn_labels(300)), or allow more with --set sql.memory=8GB or "
    "--set sql.spill=50GB"
)
