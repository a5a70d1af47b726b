"""Answers of SQL queries as CSV, JSON, JSON lines or Parquet: in files, and on standard output for pipes."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.atomic_file import replacing
from mctrace.errors import InputError

_FORMATS = ("csv", "json", "jsonl", "parquet")


def format_of(out: Path, given: str | None = None) -> str:
    """Format that the ending of `out` names. Raises InputError for others, and where `given` is not it."""
    kind = out.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise InputError(f"--out {out}: give it the ending .csv, .json, .jsonl or .parquet")
    if given not in (None, kind):
        raise InputError(f"--out {out} and --format {given} disagree: the ending of --out names the format")
    return kind


def write_answer(answer: pa.RecordBatchReader, out: Path) -> int:
    """Write an answer atomically in the format that the ending of `out` names; return its number of rows.

    Raises InputError for an unknown ending and for a file that cannot be written.
    """
    kind = format_of(out)
    try:
        with replacing(out) as scratch:
            if kind == "parquet":
                return _write_parquet(answer, scratch)
            with scratch.open("w", encoding="utf-8", newline="") as text:
                return _WRITERS[kind](answer, text)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error


def print_as(answer: pa.RecordBatchReader, output_format: str) -> None:
    """Write an answer to standard output as csv, json, jsonl or parquet.

    Raises InputError for Parquet in a terminal.
    """
    if output_format == "parquet":
        _write_parquet_to_pipe(answer)
    else:
        _WRITERS[output_format](answer, sys.stdout)


def rows_of(answer: pa.Table | pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Rows as tuples, since two columns of an answer may have the same name."""
    return zip(*(column.to_pylist() for column in answer.columns), strict=True)


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
        writer.writerows(map(_no_formula, rows_of(batch)))
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
    """One array with an object a row."""
    num_rows = 0
    text.write("[")
    for record in _objects(answer):
        text.write(("," if num_rows else "") + "\n  " + record)
        num_rows += 1
    text.write("\n]\n" if num_rows else "]\n")
    return num_rows


def _write_json_lines(answer: pa.RecordBatchReader, text: TextIO) -> int:
    num_rows = 0
    for record in _objects(answer):
        text.write(record + "\n")
        num_rows += 1
    return num_rows


def _objects(answer: pa.RecordBatchReader) -> Iterator[str]:
    """Each row as a JSON object; a number that JSON cannot spell becomes null."""
    names = _distinct(answer.schema.names)
    for batch in answer:
        for row in rows_of(batch):
            record = dict(zip(names, map(_plain, row), strict=True))
            yield json.dumps(record, default=str, ensure_ascii=False)


_WRITERS: dict[str, Callable[[pa.RecordBatchReader, TextIO], int]] = {
    "csv": _write_csv, "json": _write_json, "jsonl": _write_json_lines,
}  # fmt: skip


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
