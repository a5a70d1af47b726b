"""Opening of the store version that a command reads, without damaged parts where that is configured."""

from rich.console import Console

from mctrace.cli.configuration import StoreConfig
from mctrace.cli.display.progress import make_progress
from mctrace.datasets.store.store import StoreVersion, open_store
from mctrace.datasets.upkeep.verify import leave_out_damaged

_MOST_NAMED = 5


def open_version(config: StoreConfig, version: int | None, dataset: str | None = None) -> StoreVersion:
    """Open a version, the newest for None, read through a derived dataset where one is named.

    Parts that `skip_damaged` left out are listed on standard error.

    Raises StoreError when the version is not there, InputError when the dataset is not.
    """
    at = open_store(config.uri).at(version)
    if not config.skip_damaged:
        return at.read_through(dataset)
    errors = Console(stderr=True, soft_wrap=True)
    whole, damaged = leave_out_damaged(at, make_progress(errors))
    if damaged:
        named = ", ".join(part.folder for part in damaged[:_MOST_NAMED])
        more = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
        errors.print(
            f"left out of version {at.version}: {len(damaged)} damaged part(s), {named}{more}; "
            "mctrace verify says what is wrong with them",
            markup=False,
            highlight=False,
        )
    return whole.read_through(dataset)
