"""One SQL query, given as text, by name, in a file or on standard input, and where its answer goes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mctrace.analysis.questions.catalogue import questions, read_question
from mctrace.cli.display.answer_files import print_as, write_answer
from mctrace.cli.display.answer_table import print_answer
from mctrace.cli.sql_variables import parse_variables
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.user_queries import stream_user_sql
from mctrace.datasets.sql.variables import set_variables
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError


@dataclass(frozen=True)
class AnswerOutput:
    """Destination of an answer: the file `out`, or standard output in `output_format`."""

    out: Path | None = None
    """its ending names the format"""
    output_format: str = "table"
    """table, csv, json, jsonl or parquet"""
    as_records: bool = False
    """a line per column instead of a table"""


def answer_query(
    version: StoreVersion,
    sql: str,
    output: AnswerOutput,
    console: Console,
    *,
    limits: SqlLimits,
    variables: Sequence[str] = (),
    timeout_seconds: float | None = None,
) -> None:
    """Run one query, then print or write its answer.

    Without `timeout_seconds` the configured limit applies, except where a person sits at the terminal.
    """
    connection = connect(version, limits=limits)
    set_variables(connection, sql, parse_variables(variables))
    if timeout_seconds is None:
        timeout_seconds = 0 if sys.stdin.isatty() and sys.stdout.isatty() else limits.timeout_seconds
    answer = stream_user_sql(connection, sql, timeout_seconds=timeout_seconds)
    if output.out is not None:
        num_rows = write_answer(answer, output.out)
        console.print(f"wrote {output.out} ({num_rows} rows)", highlight=False, markup=False, soft_wrap=True)
    elif output.output_format == "table":
        print_answer(answer.read_all(), console, as_records=output.as_records)
    else:
        print_as(answer, output.output_format)


def read_query(query: str | None, file: Path | None = None, question: str | None = None) -> str:
    """Text of the query: the argument, the file, a shipped question, or standard input for `-` and for none.

    Raises InputError for two of them, an unknown question, and a file that cannot be read.
    """
    if question is not None:
        if query is not None or file is not None:
            raise InputError("give a query, --file or --question, not two of them")
        return read_question(question)
    if file is not None:
        if query is not None:
            raise InputError("give a query, --file or --question, not two of them")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"cannot read {file}: {reason}") from error
    if query is None or query == "-":
        return sys.stdin.read()
    return query


def print_questions(console: Console) -> None:
    """Print the questions that ship, a line each."""
    known = questions()
    width = max(map(len, known))
    for name, asked in known.items():
        console.print(f"{name:{width}}  {asked}", highlight=False, markup=False)
