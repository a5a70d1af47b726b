"""Withdrawal of damaged parts from the ledger, so that the same collection measures them again."""

from collections.abc import Sequence
from dataclasses import dataclass

from mctrace.datasets.store.parts import Part
from mctrace.datasets.store.store import Store
from mctrace.datasets.upkeep.verify import leave_out_damaged
from mctrace.progress import Progress

_RUN_KIND = "run"


@dataclass(frozen=True)
class Withdrawal:
    """Damaged parts of a store's newest version, withdrawn or kept."""

    withdrawn: Sequence[Part]
    kept: Sequence[Part]
    """runs' own records: nothing makes them again, and their labels need what is left of them"""


def withdraw_damaged(store: Store, progress: Progress) -> Withdrawal:
    """Commits a version without the damaged parts that can be made again; hashes are checked.

    Trajectories, documents, controls and embedding tables are measured again by `mctrace collect` with the
    configuration that measured them, a dataset is derived again under its name, and where a compacted part
    goes, those that it was made of are read again. Older versions name them all still. Raises StoreError when
    the list cannot be written.
    """
    _, damaged = leave_out_damaged(store.at(), progress)
    withdrawn = [part for part in damaged if part.kind != _RUN_KIND]
    if withdrawn:
        store.ledger.withdraw({part.part_id for part in withdrawn})
    return Withdrawal(withdrawn, [part for part in damaged if part.kind == _RUN_KIND])
