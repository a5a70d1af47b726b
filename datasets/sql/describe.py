"""Answers to `describe VIEW`, with the meaning of each column, and to `show tables`: the views for people.

The meanings are in `views/columns.toml`; the comment on top of a view's file says what a row is.
"""

import re
import tomllib

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.registry import TARGETS, VIEWS, read_sql, rows_of_relations

_DESCRIBE = re.compile(r"\s*(?:describe|desc)\s+\"?(\w+)\"?\s*", re.IGNORECASE)
"""Stands in for DuckDB's own answer where a text is plainly this; no decision about safety depends on it."""
_SHOW = re.compile(r"\s*show\s+tables\s*", re.IGNORECASE)
"""Likewise: DuckDB's answer lists the steps between files and views too."""


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


def lists_views(sql: str) -> bool:
    """Whether a statement is `show tables`."""
    return _SHOW.fullmatch(sql) is not None


def list_views() -> pa.Table:
    """Views, macros and targets that people query, each with what a row of it is."""
    rows = rows_of_relations()
    return pa.table({"name": list(rows), "a_row_is": list(rows.values())})


def column_comments() -> dict[tuple[str, str], str]:
    """Meaning of columns by (view, column); the view is "any" for a name that means the same everywhere."""
    sections = tomllib.loads(read_sql("views", "columns.toml"))
    return {(view, column): text for view, texts in sections.items() for column, text in texts.items()}
