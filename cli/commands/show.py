"""`mctrace show`: one snapshot in the terminal."""

from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    Assignments,
    Config,
    ScoredBy,
    SkipDamaged,
    StoreUri,
    Version,
    configure,
    console,
)


def show(
    snapshot: Annotated[str, typer.Argument(help="snapshot id, or a prefix of its trajectory's id")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    checkpoints: ScoredBy = None,
    top: Annotated[int, typer.Option("--top", min=1, help="number of expands and of collapses")] = 5,
    actions: Annotated[
        bool, typer.Option("--actions", help="list every legal action, measured or not")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Show one snapshot in the terminal.

    Its LOD map as a line of blocks, and the edits that are worth most, with their text.
    """
    from mctrace.analysis.snapshots.scored_snapshot import read_scored_snapshot
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.display.snapshot import print_snapshot
    from mctrace.cli.store_version import open_version

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    at = open_version(settings.store, version)
    found = read_scored_snapshot(at, snapshot, checkpoints or (), settings.allocator)
    if as_json:
        print_json(found.to_json())
    else:
        print_snapshot(found, console, top=top, all_actions=actions)
