"""`mctrace log`: the runs and versions of a store."""

from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    SkipDamaged,
    StoreUri,
    Version,
    configure,
    console,
)


def log(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="list every version and what it added")
    ] = False,
    skip_damaged: SkipDamaged = None,
    as_json: AsJson = False,
) -> None:
    """List the store's runs: what, when, how many.

    Each with its model, gists, estimator and the versions it made.
    """
    from mctrace.cli.display.json_answer import dataset_answer, print_json, run_answer, version_answer
    from mctrace.cli.display.store_log import print_datasets, print_quarantine, print_runs, print_versions
    from mctrace.cli.store_version import open_version
    from mctrace.datasets.store.store import open_store
    from mctrace.datasets.upkeep.run_log import (
        logged_datasets,
        logged_quarantine,
        logged_runs,
        logged_versions,
    )

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    opened = open_store(settings.store.uri)
    at = open_version(settings.store, version)
    if as_json:
        answer = {"store": settings.store.uri, "version": at.version}
        if versions:
            found = [version_answer(one) for one in logged_versions(opened, at)]
            print_json({**answer, "versions": found})
            return
        runs = [run_answer(one) for one in logged_runs(opened, at)]
        datasets = [dataset_answer(one) for one in logged_datasets(opened, at)]
        quarantined = logged_quarantine(at)
        print_json({**answer, "runs": runs, "quarantined": quarantined, "datasets": datasets})
        return
    if versions:
        print_versions(logged_versions(opened, at), console)
        return
    console.print(f"{settings.store.uri} at version {at.version}", highlight=False)
    print_runs(logged_runs(opened, at), console)
    print_quarantine(logged_quarantine(at), console)
    print_datasets(logged_datasets(opened, at), console)
