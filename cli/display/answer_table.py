"""Answers of SQL queries as tables in a terminal or pipe."""

import re
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from mctrace.cli.display.answer_files import rows_of
from mctrace.cli.display.tables import print_table


def print_answer(answer: pa.Table, console: Console, limit: int | None = None) -> None:
    """Print at most `limit` rows of an answer as a table, and the number of rows it has."""
    table = Table()
    for field in answer.schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if is_number else "left", overflow="fold")
    for row in rows_of(answer.slice(0, limit)):
        table.add_row(*map(_cell, row))
    print_table(table, console)
    left_out = f", the first {limit} shown" if limit is not None and answer.num_rows > limit else ""
    console.print(f"{answer.num_rows} row{'' if answer.num_rows == 1 else 's'}{left_out}", highlight=False)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else _CONTROL.sub(_spelled, str(value)).replace("[", "\\[")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would move a terminal's cursor, colour it, or turn the direction of writing."""


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
