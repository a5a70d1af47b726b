"""Asking the same questions of a part of a store: one run, or a few trajectories."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

_VIEWS = {"run_id": ("trajectories", "runs"), "trajectory_id": ("trajectories", "effects")}
"""the views that a column narrows; all that speaks of labels stands on them"""


@contextmanager
def narrowed(connection: duckdb.DuckDBPyConnection, column: str, values: Sequence[str]) -> Iterator[None]:
    """For as long as this lasts every view of `connection` sees only rows whose `column` ("run_id" or
    "trajectory_id") is one of `values`.

    A temporary view stands before one of the same name, also for the views and macros built upon it.
    """
    listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values) or "null"
    for view in _VIEWS[column]:
        connection.execute(
            f"create temp view {view} as select * from memory.main.{view} where {column} in ({listed})"
        )
    try:
        yield
    finally:
        for view in _VIEWS[column]:
            connection.execute(f"drop view temp.{view}")
