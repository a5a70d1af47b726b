"""Answers of SQL queries in a terminal or pipe, as tables or as records.

A terminal gets what fits: shortened hashes, columns left out of the middle of a wide table, few rows of it as
records instead, long answers in a pager. A pipe gets everything.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from mctrace.cli.display.answer_files import rows_of
from mctrace.cli.display.tables import print_table

MOST_ROWS = 200
"""maximum number of rows that a terminal shows"""
_MOST_RECORDS = 3
"""rows of a table too wide for the terminal that are shown as records without being asked for"""
_FOLDED_WIDTH = 32
"""characters of a cell beyond which it is folded rather than another column left out"""
_FRAME = 3
"""characters of a column's frame and padding"""


def print_answer(answer: pa.Table, console: Console, *, as_records: bool = False, hint: str = "-x") -> None:
    """Print an answer and the number of rows it has; a terminal shows the first `MOST_ROWS` of them.

    `as_records` prints a line per column instead of a table; `hint` is what people type for that.
    """
    in_terminal = console.is_terminal
    shown = answer.slice(0, MOST_ROWS) if in_terminal else answer
    rows = [list(map(_cell, row)) for row in rows_of(shown)]
    notes = [f"{answer.num_rows} row{'' if answer.num_rows == 1 else 's'}"]
    if shown.num_rows < answer.num_rows:
        notes.append(f"the first {MOST_ROWS} shown")
    short = [list(map(_shortened, row)) for row in rows] if in_terminal else rows
    kept = _fitting(answer.schema.names, short, console.width if in_terminal else None)
    is_cut = len(kept) < answer.num_columns
    as_records = as_records or (is_cut and len(rows) <= _MOST_RECORDS)
    with _paged(console, len(rows) * (answer.num_columns + 1 if as_records else 1)):
        if as_records:
            _print_records(answer.schema.names, rows, console)
        else:
            _print_columns(answer.schema, kept, short, console)
            if is_cut:
                notes.append(f"{len(kept)} of {answer.num_columns} columns shown ({hint} shows all)")
        console.print(", ".join(notes), highlight=False, markup=False)


def _print_columns(
    schema: pa.Schema, kept: Sequence[int], rows: Sequence[Sequence[str]], console: Console
) -> None:
    table, gap = Table(), None
    for place, index in enumerate(kept):
        if place and index != kept[place - 1] + 1:
            table.add_column("…")
            gap = place
        field = schema.field(index)
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(_markup(field.name), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        cells = [_markup(row[index]) for index in kept]
        table.add_row(*(cells if gap is None else [*cells[:gap], "…", *cells[gap:]]))
    print_table(table, console)


def _print_records(names: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    for number, row in enumerate(rows, start=1):
        console.print(f"── row {number} ──", highlight=False, markup=False)
        record = Table.grid(padding=(0, 2, 0, 0))
        record.add_column(no_wrap=True)
        record.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            record.add_row(_markup(name), _markup(cell))
        print_table(record, console)


def _fitting(names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Columns that fit a width: all of them, or as many as can be from both ends, one at least."""
    widths = [
        min(max([cell_len(name), *(cell_len(line) for row in rows for line in row[index].split("\n"))]),
            max(cell_len(name), _FOLDED_WIDTH)) + _FRAME
        for index, name in enumerate(names)
    ]  # fmt: skip
    if width is None or len(names) < 2 or sum(widths) + 1 <= width:
        return list(range(len(names)))
    left, right = 0, len(names)  # kept: those below left, and from right on
    room = width - 2 - _FRAME  # less the frame's last line and the column of the gap
    while left < right:
        index = left if left <= len(names) - right else right - 1
        room -= widths[index]
        if room < 0 and left:
            break
        left, right = (left + 1, right) if index == left else (left, right - 1)
    return [*range(left), *range(right, len(names))]


@contextmanager
def _paged(console: Console, num_lines: int) -> Iterator[None]:
    """In a pager ($PAGER, or less) what is longer than the terminal, where a person sits at it."""
    if num_lines + 5 <= console.height or console.file is not sys.stdout or not sys.stdin.isatty():
        yield
        return
    os.environ.setdefault("LESS", "FRX")
    with console.pager():
        yield


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else _CONTROL.sub(_spelled, str(value))


_HASH = re.compile(r"([0-9a-f]{8})[0-9a-f]{16,}(:\d+)?")
"""An id or hash, with a cursor where it is a snapshot's."""


def _shortened(cell: str) -> str:
    found = _HASH.fullmatch(cell)
    return f"{found[1]}…{found[2] or ''}" if found else cell


def _markup(text: str) -> str:
    return text.replace("[", "\\[")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would move a terminal's cursor, colour it, or turn the direction of writing."""


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
