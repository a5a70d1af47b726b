"""`mctrace sql`: one query, or a shell."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    Assignments,
    Config,
    Dataset,
    SkipDamaged,
    StoreUri,
    Variables,
    Version,
    configure,
    console,
    refuse_given,
)


class OutputFormat(StrEnum):
    """Format of an answer on standard output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


def sql(
    query: Annotated[
        str | None, typer.Argument(help="one query; - reads standard input; none opens a shell")
    ] = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    file: Annotated[Path | None, typer.Option("--file", help="read the query from a file")] = None,
    question: Annotated[
        str | None, typer.Option("--question", help="a question that ships, by name; see --questions")
    ] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="list the questions that ship, and end")
    ] = False,
    variables: Variables = None,
    format_: Annotated[
        OutputFormat, typer.Option("--format", help="format of the printed answer")
    ] = OutputFormat.TABLE,
    records: Annotated[
        bool, typer.Option("--records", "-x", help="print a line per column instead of a table")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="write to a file; its ending names the format")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="time limit in seconds, 0: none [60 in scripts and pipes]"),
    ] = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Ask the store a question in SQL.

    Views, among others: labels, labels_at(h), snapshots, entries, effects, token_effects, trajectories,
    documents, runs, datasets, variants, preference_pairs, controls, joint_edits, audits, vocabulary, and
    NAME_target of every target. Try "show tables" and "describe labels". Without a query, and not in a pipe,
    a shell opens.
    """
    from mctrace.cli.display.answer_files import format_of
    from mctrace.cli.sql_query import AnswerOutput, answer_query, print_questions, read_query
    from mctrace.cli.store_version import open_version

    if questions:
        refuse_given({"a query": query, "--file": file, "--question": question}, "--questions only lists")
        print_questions(console)
        return
    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    chosen = None if format_ is OutputFormat.TABLE else format_
    if query is None and file is None and question is None and sys.stdin.isatty():
        from mctrace.cli.sql_shell import run_shell

        refuse_given(
            {"--out": out, "--format": chosen, "--records": records or None},
            "only for a query, which is not given: without one a shell opens",
        )
        at = open_version(settings.store, version, dataset)
        run_shell(at, console, variables=variables or [], limits=settings.sql, timeout_seconds=timeout or 0)
        return
    if out is not None:
        format_of(out, chosen)
    if out is not None or chosen:
        refuse_given({"--records": records or None}, "only for a printed table")
    text = read_query(query, file, question)
    answer_query(
        open_version(settings.store, version, dataset), text, AnswerOutput(out, format_.value, records),
        console, limits=settings.sql, variables=variables or [], timeout_seconds=timeout,
    )  # fmt: skip
