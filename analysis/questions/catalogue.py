"""The analyses that ship with mctrace: one .sql file each, beside this module, over the views of a store.

A file that takes a number reads it with `getvariable` and has a default, so that each also runs as it is with
`mctrace sql --file`; those that read `scores` need `add_scores` first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from mctrace.datasets.sql.connection import fetch_rows

Row = dict[str, Any]
"""one row of an answer, by column; the header of the .sql file says what it means and in which units"""


def read_analysis(name: str) -> str:
    """The text of the shipped analysis `name`, without the .sql."""
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")


def run_analysis(connection: duckdb.DuckDBPyConnection, name: str, **variables: int) -> list[Row]:
    """The rows of a shipped analysis; `variables` are what its header calls variables."""
    for variable, value in variables.items():
        connection.execute(f"set variable {variable} = $1", [value])
    try:
        return fetch_rows(connection, read_analysis(name))
    finally:
        for variable in variables:
            connection.execute(f"reset variable {variable}")


def add_scores(connection: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> None:
    """Makes the table `scores` of this connection: one row per scorer, snapshot and action."""
    columns = {
        "scorer": "varchar",
        "snapshot_id": "varchar",
        "action": "varchar",
        "node_level": "utinyint",
        "node_index": "bigint",
        "score": "double",
    }
    listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"create or replace temp table scores ({listed})")
    values = [[row[name] for row in rows] for name in columns]
    unnested = ", ".join(
        f"unnest(${place}::{kind}[])" for place, kind in enumerate(columns.values(), start=1)
    )
    connection.execute(f"insert into scores select {unnested}", values)


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
