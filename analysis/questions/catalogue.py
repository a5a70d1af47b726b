"""Catalogue of the analyses: one .sql file each, beside this module, over the views of a store.

Those that people ask by name have a line `-- asks:` with the question in words; the others serve the report.
An analysis reads its parameters with `getvariable` and has defaults, so that it also runs unchanged with
`mctrace sql --file`; those that read `scores` need `add_scores` first. `narrowed` restricts all of them to
one run or a few trajectories.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from mctrace.datasets.sql.connection import fetch_rows
from mctrace.errors import InputError

_ASKS = re.compile(r"^-- asks: (.*)$", re.MULTILINE)

Row = dict[str, Any]
"""one row of an answer, by column; the header of the .sql file says what it means and in which units"""


def read_analysis(name: str) -> str:
    """SQL text of the analysis `name` (the file name without .sql)."""
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")


def questions() -> Mapping[str, str]:
    """Questions that people ask by name, in words, in the order of their names."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.sql")}
    return {name: found[1] for name in sorted(texts) if (found := _ASKS.search(texts[name]))}


def read_question(name: str) -> str:
    """SQL text of a question that people ask by name. Raises InputError where there is none of that name."""
    known = questions()
    if name not in known:
        raise InputError(f"unknown question {name!r}: one of {', '.join(known)}")
    return read_analysis(name)


def run_analysis(connection: duckdb.DuckDBPyConnection, name: str, **variables: int) -> list[Row]:
    """Rows of the analysis `name`; its header lists the `variables`."""
    for variable, value in variables.items():
        connection.execute(f"set variable {variable} = $1", [value])
    try:
        return fetch_rows(connection, read_analysis(name))
    finally:
        for variable in variables:
            connection.execute(f"reset variable {variable}")


def add_scores(connection: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> None:
    """Create the table `scores` of this connection: one row per scorer, snapshot and action."""
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
"""base views that a column narrows; every view and macro over labels is built on them"""


@contextmanager
def narrowed(connection: duckdb.DuckDBPyConnection, column: str, values: Sequence[str]) -> Iterator[None]:
    """Restrict every view of `connection` to rows whose `column` is one of `values` inside the context.

    `column` is "run_id" or "trajectory_id". A temporary view hides the one of the same name, also from the
    views and macros built on it.
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
