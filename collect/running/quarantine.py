"""Quarantine: items that were given up, recorded in the store with the reason, and left out of later runs.

A row stands until the item is measured after all (`mctrace collect --retry-quarantined`).
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from mctrace.collect.planning.work_units import WorkUnit
from mctrace.collect.workers.worker_pool import Quarantined
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.store import Store

KIND = "quarantine"


def write_quarantine(location: Location, given_up: Quarantined, run_id: str) -> Part:
    """The part that records it; commits nothing."""
    unit = given_up.item.unit
    row = {
        "part_id": unit.part_id,
        "kind": unit.kind,
        "trajectory_id": unit.trajectory_id,
        "document_id": unit.document_id,
        "source": given_up.item.document.source,
        "run_id": run_id,
        "reason": given_up.reason,
        "num_attempts": given_up.num_attempts,
        "recorded_at": datetime.now(UTC),
    }
    part_id = hashlib.sha256(f"quarantine {unit.part_id} {run_id}".encode()).hexdigest()[:40]
    return write_part(location, part_id=part_id, kind=KIND, run_id=run_id, tables={"quarantined": [row]})


def quarantined_ids(store: Store | None) -> frozenset[str]:
    """Part ids of items in quarantine: given up and not measured since."""
    version = store.at() if store else None
    if version is None or all(committed.part.kind != KIND for committed in version.parts):
        return frozenset()
    rows = fetch_rows(connect(version), "select distinct part_id from stored_quarantined")
    return frozenset(row["part_id"] for row in rows) - version.part_ids


def outside_quarantine(units: Sequence[WorkUnit], quarantined: frozenset[str]) -> list[WorkUnit]:
    """The units that may be measured: not in quarantine, nor beside a trajectory that is."""
    return [u for u in units if u.part_id not in quarantined and u.trajectory_id not in quarantined]
