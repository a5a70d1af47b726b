"""`mctrace export`: labels and their context as files for Hugging Face datasets and other readers."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Dataset,
    SkipDamaged,
    StoreUri,
    Version,
    configure,
    console,
)


class ExportLayout(StrEnum):
    """Layout of the written files."""

    HF = "hf"
    PARQUET = "parquet"


def export(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    format_: Annotated[
        ExportLayout, typer.Option("--format", help="parquet: load_dataset; hf: load_from_disk")
    ] = ExportLayout.PARQUET,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="<name>",
            help="a .sql file or a target's name (repeatable) [value, priced, literal]",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="SQL condition on the labels, e.g. \"split = 'train'\"")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="include entries and documents as text")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="include the base model's embedding table")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
    skip_damaged: SkipDamaged = None,
    as_json: AsJson = False,
) -> None:
    """Write labels and their context for Hugging Face datasets.

    A row per snapshot with its entries, actions and targets; a row per document with its tokens and gists.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.store_version import open_version
    from mctrace.datasets.export.export import ExportRequest
    from mctrace.datasets.export.export import export as export_version

    targets = {"targets": tuple(target)} if target else {}
    request = ExportRequest(format_.value, where=where, with_text=text, with_embeddings=embeddings, **targets)
    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    at = open_version(settings.store, version, dataset)
    progress = make_progress(messages_console(console, as_json=as_json))
    summary = export_version(at, out, request, progress, overwrite=overwrite)
    if as_json:
        print_json({"out": str(out), "version": at.version, **asdict(summary)})
        return
    rows = "; ".join(
        f"{table}: {', '.join(f'{count} {split}' for split, count in splits.items())}"
        for table, splits in summary.num_rows.items()
    )
    console.print(
        f"wrote {out} ({summary.num_bytes / 1e6:.1f} MB) from version {at.version}: {rows}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
