"""`mctrace compact`: few large parts instead of many small ones."""

from mctrace.cli.shared_options import Assignments, Config, StoreUri, configure, console


def compact(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Merge many small parts into few large ones.

    Makes a new version with the same rows; earlier versions stay as they are. Runs may continue meanwhile.
    """
    from mctrace.cli.display.progress import make_progress
    from mctrace.datasets.store.store import open_store
    from mctrace.datasets.upkeep.compaction import compact as compact_parts

    opened = open_store(configure(config, store, set_).store.uri)
    made = compact_parts(opened, make_progress(console))
    num_parts = sum(len(part.lineage) for part in made)
    console.print(
        f"{num_parts} parts compacted into {len(made)}; the store is at version {opened.ledger.version()}",
        highlight=False,
    )
