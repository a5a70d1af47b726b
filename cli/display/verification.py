"""Results of `mctrace verify` in a terminal."""

from collections import Counter

from rich.console import Console

from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.upkeep.withdrawal import Withdrawal


def print_whole(uri: str, version: StoreVersion, console: Console, *, quick: bool) -> None:
    """Print the size of a version without problems."""
    num_files = sum(len(committed.part.files) for committed in version.parts)
    size = sum(committed.part.size for committed in version.parts)
    console.print(
        f"{uri} at version {version.version} is whole: {len(version.parts)} parts, {num_files} files, "
        f"{size / 1e6:.1f} MB{' (hashes not checked)' if quick else ''}",
        highlight=False,
    )


def describe_withdrawal(found: Withdrawal, version: int, console: Console) -> str:
    """Print the damaged parts that stay; return in words what was withdrawn and what restores it."""
    for part in found.kept:
        console.print(
            f"{part.folder} stays: a run's own record cannot be made again", markup=False, highlight=False
        )
    if not found.withdrawn:
        return "no damaged part that could be made again"
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(p.kind for p in found.withdrawn).items()))
    return (
        f"withdrew {kinds} in version {version}: the same 'mctrace collect' measures them "
        "again, the same 'mctrace derive' derives a dataset again"
    )
