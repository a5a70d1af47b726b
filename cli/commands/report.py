"""`mctrace report`: one self-contained HTML file about a store, training runs and checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Dataset,
    ScoredBy,
    SkipDamaged,
    StoreUri,
    Version,
    configure,
    console,
)


def report(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="training run folder to include (repeatable)")
    ] = None,
    checkpoints: ScoredBy = None,
    compare: Annotated[
        int | None, typer.Option("--compare", min=0, help="another version to compare with")
    ] = None,
    snapshots: Annotated[
        list[str] | None,
        typer.Option("--snapshot", metavar="<id>", help="snapshot id or a prefix (repeatable) [picked]"),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="SQL condition on the labels, e.g. \"action = 'expand'\"")
    ] = None,
    skip_damaged: SkipDamaged = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML report.

    Signal against noise, values, targets, single snapshots with their text, a page per run; with --run and
    --checkpoint scores and training, with two of them or --compare what differs.
    """
    from mctrace.analysis.report.report import ReportParts
    from mctrace.analysis.report.report_file import check_report_paths, write_report
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.store_version import open_version

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    check_report_paths(out, runs or ())
    at = open_version(settings.store, version, dataset)
    parts = ReportParts(
        runs=runs or (),
        checkpoints=checkpoints or (),
        compared=None if compare is None else open_version(settings.store, compare),
        snapshots=snapshots or (),
        where=where or "",
    )
    write_report(out, at, parts)
    if as_json:
        print_json({"out": str(out.resolve()), "version": at.version, "num_bytes": out.stat().st_size})
        return
    console.print(
        f"wrote {out.resolve()} ({out.stat().st_size / 1e6:.1f} MB)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
