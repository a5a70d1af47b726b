"""Commands that ask a store: in SQL, for a dataset of its own, for files, a page, or one snapshot."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.options import (
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

ask_app = typer.Typer(rich_markup_mode=None)

ScoredBy = Annotated[
    list[Path] | None, typer.Option("--checkpoint", help="show a LensNet's scores (repeatable)")
]


class OutputFormat(StrEnum):
    """How `mctrace sql` prints an answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class ExportLayout(StrEnum):
    """How `mctrace export` lays out files."""

    HF = "hf"
    PARQUET = "parquet"


@ask_app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(help="one query; - reads standard input; none: a shell")
    ] = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    file: Annotated[Path | None, typer.Option("--file", help="read the query from a file")] = None,
    variables: Variables = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="how to print")] = OutputFormat.TABLE,
    out: Annotated[
        Path | None, typer.Option("--out", help="write to a file; its ending says the format")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="most seconds, 0: any [60 in scripts and pipes, else any]"),
    ] = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Ask the store a question in SQL.

    Views, among others: labels, labels_at(h), snapshots, entries, effects, token_effects, trajectories,
    documents, runs, datasets, variants, preference_pairs, controls, joint_edits, audits, vocabulary, and
    NAME_target of every target. Try "describe labels". Without a query, and not in a pipe, it opens a shell.
    """
    from mctrace.cli.shell import open_shell
    from mctrace.cli.sql_command import answer_query, wants_shell

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    chosen = None if format_ is OutputFormat.TABLE else format_
    if wants_shell(query, file):
        refuse_given(
            {"--out": out, "--format": chosen},
            "only for a query, which is not given: without one a shell opens",
        )
        open_shell(settings, version, dataset, variables or [], console, timeout_seconds=timeout or 0)
    else:
        if out is not None:
            refuse_given(
                {"--format": chosen}, "only for what is printed: the ending of --out says the format"
            )
        answer_query(
            settings,
            version,
            query,
            file,
            format_.value,
            console,
            dataset=dataset,
            variables=variables or [],
            out=out,
            timeout_seconds=timeout,
        )


@ask_app.command()
def derive(
    name: Annotated[str, typer.Argument(help="what --dataset will call it")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="a recipe that ships, recipes/NAME.sql, or a .sql file")
    ],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    seed: Annotated[int, typer.Option("--seed", help="the recipe's chance")] = 0,
    variables: Variables = None,
) -> None:
    """Make a dataset of a version with a recipe in SQL.

    Filters, augmentations, balancing: the rows become a part of the store, reproducible to the byte, which
    train, evaluate and sql read with --dataset.
    """
    from mctrace.cli.derive_command import derive_dataset

    derive_dataset(
        configure(config, store, set_), version, dataset, name, recipe, seed, variables or [], console
    )


@ask_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="the folder to write")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    format_: Annotated[
        ExportLayout, typer.Option("--format", help="parquet: load_dataset; hf: load_from_disk")
    ] = ExportLayout.PARQUET,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="a .sql file or a target's name (repeatable) [value, priced, literal]"),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="which labels, in SQL, e.g. \"split = 'train'\"")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="entries and documents as text, too")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="the base model's embedding table, too")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Write labels and their context for Hugging Face datasets.

    A row per snapshot with its entries, actions and targets; a row per document with its tokens and gists.
    """
    from mctrace.cli.export_command import export_store
    from mctrace.datasets.export.export import ExportRequest

    targets = {"targets": tuple(target)} if target else {}
    request = ExportRequest(format_.value, where=where, with_text=text, with_embeddings=embeddings, **targets)
    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    export_store(
        settings,
        version,
        out,
        request,
        overwrite=overwrite,
        console=console,
    )


@ask_app.command()
def report(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    out: Annotated[Path, typer.Option("--out", help="the HTML file to write")] = Path("report.html"),
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="training run folder to include (repeatable)")
    ] = None,
    checkpoints: ScoredBy = None,
    compare: Annotated[
        int | None, typer.Option("--compare", min=0, help="set another version beside")
    ] = None,
    snapshots: Annotated[
        list[str] | None, typer.Option("--snapshot", help="id, or its beginning (repeatable) [picked]")
    ] = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Write one self-contained HTML report.

    Signal against noise, values, targets, single snapshots with their text, a page per run; with --run and
    --checkpoint scores and training, with two of them or --compare what differs.
    """
    from mctrace.cli.report_command import ReportRequest, write_report

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    request = ReportRequest(out, version, compare, runs or (), checkpoints or (), snapshots or ())
    write_report(settings, request, console)


@ask_app.command()
def show(
    snapshot: Annotated[str, typer.Argument(help="snapshot id, or the beginning of its trajectory's id")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    checkpoints: ScoredBy = None,
    top: Annotated[int, typer.Option("--top", min=1, help="how many expands and collapses")] = 5,
    actions: Annotated[bool, typer.Option("--actions", help="every legal action, measured or not")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Show one snapshot in the terminal.

    Its LOD map as a line of blocks, and the edits that are worth most, with their text.
    """
    from mctrace.cli.show_command import ShowRequest, show_snapshot

    request = ShowRequest(snapshot, version, checkpoints or (), top, actions, as_json)
    show_snapshot(configure(config, store, set_, store__skip_damaged=skip_damaged), request, console)
