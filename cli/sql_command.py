"""`mctrace sql`: one query given as text, in a file or through a pipe, and the way into the shell."""

import csv
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from mctrace.cli.config import PipelineConfig
from mctrace.cli.output import print_table
from mctrace.cli.reading import open_version
from mctrace.cli.variables import parse_variables
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.user_queries import stream_user_sql
from mctrace.datasets.sql.variables import set_variables
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError

_ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


def wants_shell(query: str | None, file: Path | None) -> bool:
    """No query, no file, and a person at the keyboard."""
    return query is None and file is None and sys.stdin.isatty()


def answer_query(
    config: PipelineConfig,
    version: int | None,
    query: str | None,
    file: Path | None,
    output_format: str,
    console: Console,
    *,
    dataset: str | None = None,
    variables: Sequence[str] = (),
    out: Path | None = None,
    timeout_seconds: float | None = None,
) -> None:
    """Runs one query, given as text, in a file or on standard input, and prints its answer or writes it.

    Without `timeout_seconds` the configured time holds, except where a person sits at the terminal.
    """
    sql = _read_query(query, file)
    connection = connect(open_queried(config, version, dataset), limits=config.sql)
    set_variables(connection, sql, parse_variables(variables))
    if timeout_seconds is None:
        timeout_seconds = 0 if sys.stdin.isatty() and sys.stdout.isatty() else config.sql.timeout_seconds
    answer = stream_user_sql(connection, sql, timeout_seconds=timeout_seconds)
    if out is not None:
        num_rows = _write_file(answer, out)
        console.print(f"wrote {out} ({num_rows} rows)", highlight=False, markup=False, soft_wrap=True)
    elif output_format == "parquet":
        _write_parquet_to_pipe(answer)
    elif output_format == "table":
        print_answer(answer.read_all(), console)
    else:
        _WRITERS[output_format](answer, sys.stdout)


def print_answer(answer: pa.Table, console: Console, limit: int | None = None) -> None:
    """An answer as a table of at most `limit` rows, and how many there are."""
    table = Table()
    for field in answer.schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if is_number else "left", overflow="fold")
    for row in _rows(answer.slice(0, limit)):
        table.add_row(*map(_cell, row))
    print_table(table, console)
    left_out = f", the first {limit} shown" if limit is not None and answer.num_rows > limit else ""
    console.print(f"{answer.num_rows} row{'' if answer.num_rows == 1 else 's'}{left_out}", highlight=False)


def open_queried(config: PipelineConfig, version: int | None, dataset: str | None) -> StoreVersion:
    return open_version(config.store, version, dataset)


def _read_query(query: str | None, file: Path | None) -> str:
    if file is not None:
        if query is not None:
            raise InputError("give the query as an argument or with --file, not both")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"cannot read {file}: {reason}") from error
    if query is None or query == "-":
        return sys.stdin.read()
    return query


def _write_file(answer: pa.RecordBatchReader, out: Path) -> int:
    """Writes in the format that the ending of `out` names, whole or not at all; returns how many rows."""
    kind = _ENDINGS.get(out.suffix.lower())
    if kind is None:
        raise InputError(f"--out {out}: give it the ending .csv, .json or .parquet")
    scratch = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        if kind == "parquet":
            num_rows = _write_parquet(answer, scratch)
        else:
            with scratch.open("w", encoding="utf-8", newline="") as text:
                num_rows = _WRITERS[kind](answer, text)
        scratch.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return num_rows


def _write_parquet(answer: pa.RecordBatchReader, target: Any) -> int:
    num_rows = 0
    try:
        with pq.ParquetWriter(target, answer.schema, compression="zstd") as writer:
            for batch in answer:
                writer.write_batch(batch)
                num_rows += batch.num_rows
    except pa.ArrowException as error:
        raise InputError(f"the answer cannot be written as Parquet: {error}") from error
    return num_rows


def _write_parquet_to_pipe(answer: pa.RecordBatchReader) -> None:
    if sys.stdout.isatty():
        raise InputError("Parquet is no text for a terminal: give --out FILE.parquet, or a pipe")
    _write_parquet(answer, pa.PythonFile(sys.stdout.buffer, mode="w"))
    sys.stdout.buffer.flush()


def _write_csv(answer: pa.RecordBatchReader, text: TextIO) -> int:
    writer, num_rows = csv.writer(_Lines(text)), 0
    writer.writerow(_no_formula(tuple(answer.schema.names)))
    for batch in answer:
        writer.writerows(map(_no_formula, _rows(batch)))
        num_rows += batch.num_rows
    return num_rows


class _Lines:
    """Ends lines as `tail` and `cut` take them; its writer believes in \\r\\n, else it would quote no \\r."""

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, line: str) -> int:
        return self._text.write(line.removesuffix("\r\n") + "\n")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _no_formula(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Texts that a spreadsheet would take for a formula behind an apostrophe, as OWASP has it; numbers stay.

    Sources and tokens come from other people's documents.
    """
    return tuple(f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for v in row)


def _write_json(answer: pa.RecordBatchReader, text: TextIO) -> int:
    """One array with an object a row; a number that JSON cannot spell becomes null."""
    names, num_rows = _distinct(answer.schema.names), 0
    text.write("[")
    for batch in answer:
        for row in _rows(batch):
            record = dict(zip(names, map(_plain, row), strict=True))
            text.write(
                ("," if num_rows else "") + "\n  " + json.dumps(record, default=str, ensure_ascii=False)
            )
            num_rows += 1
    text.write("\n]\n" if num_rows else "]\n")
    return num_rows


_WRITERS = {"csv": _write_csv, "json": _write_json}


def _distinct(names: Sequence[str]) -> list[str]:
    """An object has a key once: further columns of one name get a number."""
    found: list[str] = []
    for name in names:
        number = found.count(name) + sum(other.startswith(f"{name}_") for other in found)
        found.append(f"{name}_{number}" if name in found else name)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _rows(answer: pa.Table | pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Rows by position: an answer may have two columns of one name."""
    return zip(*(column.to_pylist() for column in answer.columns), strict=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else _CONTROL.sub(_spelled, str(value)).replace("[", "\\[")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would move a terminal's cursor, colour it, or turn the direction of writing."""


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
