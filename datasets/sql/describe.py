"""Answer to `describe VIEW`: name, type and meaning of each column.

The meanings are in `views/columns.toml`.
"""

import re
import tomllib

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.registry import TARGETS, VIEWS, read_sql

_DESCRIBE = re.compile(r"\s*(?:describe|desc)\s+\"?(\w+)\"?\s*", re.IGNORECASE)
"""Stands in for DuckDB's own answer where a text is plainly this; no decision about safety depends on it."""


def described_view(sql: str) -> str | None:
    """Name of the view that a statement describes, in lower case; None for other statements."""
    found = _DESCRIBE.fullmatch(sql)
    view = found[1].lower() if found else None
    return view if view in {*VIEWS, *(f"{target}_target" for target in TARGETS)} else None


def describe(connection: duckdb.DuckDBPyConnection, view: str) -> pa.Table:
    """Name, type and meaning of each column of one of our views."""
    meanings = column_comments()
    columns = connection.sql(f"describe {view}").to_arrow_table()
    names = columns["column_name"].to_pylist()
    return pa.table(
        {
            "column_name": names,
            "column_type": columns["column_type"],
            "meaning": [meanings.get((view, name)) or meanings.get(("any", name), "") for name in names],
        }
    )


def column_comments() -> dict[tuple[str, str], str]:
    """Meaning of columns by (view, column); the view is "any" for a name that means the same everywhere."""
    sections = tomllib.loads(read_sql("views", "columns.toml"))
    return {(view, column): text for view, texts in sections.items() for column, text in texts.items()}
