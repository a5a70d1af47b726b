"""`mctrace verify`: every file of a store checked against its ledger."""

from datetime import timedelta
from typing import Annotated

import typer

from mctrace.cli.shared_options import AsJson, Assignments, Config, StoreUri, Version, configure, console
from mctrace.errors import InputError, StoreError


def verify(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    quick: Annotated[bool, typer.Option("--quick", help="check sizes only, no hashes")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="remove old files that no ledger row names")] = False,
    withdraw: Annotated[
        bool,
        typer.Option("--withdraw", help="make a version without damaged parts, so that collect repeats them"),
    ] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="hours that --sweep keeps a file that no row names"),
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Check every file against the ledger.

    Presence, size, sha256, schema, row counts, references between tables, finite values.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json, version_size
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.display.verification import describe_withdrawal, print_whole
    from mctrace.datasets.store.store import open_store
    from mctrace.datasets.upkeep.sweep import sweep as sweep_store
    from mctrace.datasets.upkeep.verify import verify as verify_version
    from mctrace.datasets.upkeep.withdrawal import withdraw_damaged

    settings = configure(config, store, set_)
    if withdraw and (quick or version is not None):
        raise InputError(
            "--withdraw looks at every byte of the newest version: leave out "
            + ("--quick" if quick else "--version")
        )
    messages = messages_console(console, as_json=as_json)
    opened, progress = open_store(settings.store.uri), make_progress(messages)
    at = opened.at(version, even_if_cut=True)
    problems = list(verify_version(at, quick=quick, progress=progress))
    for problem in problems:
        messages.print(f"{problem.place} {problem.what}", markup=False, highlight=False)
    removed = sweep_store(opened, timedelta(hours=grace)) if sweep else []
    if sweep:
        messages.print(f"swept {len(removed)} folders and files that no version names")
    withdrawal = withdraw_damaged(opened, progress) if withdraw and problems else None
    if as_json:
        answer = {
            "store": settings.store.uri, "version": at.version, "is_whole": not problems,
            "hashes_checked": not quick, **version_size(at),
            "problems": [{"place": problem.place, "what": problem.what} for problem in problems],
            "swept": removed,
            "withdrawn": [part.folder for part in withdrawal.withdrawn] if withdrawal else [],
        }  # fmt: skip
        print_json(answer)
    if not problems:
        print_whole(settings.store.uri, at, messages, quick=quick)
        return
    # An error even where all damage is withdrawn: the exit status alone says that labels are missing now.
    found = f"{len(problems)} problem(s) in {settings.store.uri} at version {at.version}"
    if withdrawal:
        found += f"; {describe_withdrawal(withdrawal, opened.ledger.version(), messages)}"
    raise StoreError(found)
