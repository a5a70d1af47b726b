"""`mctrace compact`: few large parts instead of many small ones."""

from mctrace.cli.shared_options import AsJson, Assignments, Config, StoreUri, configure, console


def compact(
    config: Config = None, store: StoreUri = None, set_: Assignments = None, as_json: AsJson = False
) -> None:
    """Merge many small parts into few large ones.

    Makes a new version with the same rows; earlier versions stay as they are. Runs may continue meanwhile.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.datasets.store.store import open_store
    from mctrace.datasets.upkeep.compaction import compact as compact_parts

    opened = open_store(configure(config, store, set_).store.uri)
    made = compact_parts(opened, make_progress(messages_console(console, as_json=as_json)))
    num_parts = sum(len(part.lineage) for part in made)
    if as_json:
        print_json({"num_replaced": num_parts, "num_made": len(made), "version": opened.ledger.version()})
        return
    console.print(
        f"{num_parts} parts compacted into {len(made)}; the store is at version {opened.ledger.version()}",
        highlight=False,
    )
