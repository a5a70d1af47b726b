"""Log of a store: the runs, derived datasets and versions that made it what it is."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.store.heartbeat import is_fresh, last_sign
from mctrace.datasets.store.ledger import VersionRecord
from mctrace.datasets.store.store import DERIVED_BY, Store, StoreVersion


@dataclass(frozen=True)
class LoggedRun:
    """A collection run with what it added to the store."""

    row: Mapping[str, Any]
    """of `log.sql`"""
    versions: tuple[int, int]
    """first and last version that it made"""
    num_effects: int
    num_joint_edits: int
    effects_per_second: float | None
    """per worker; None where no time is recorded"""
    last_sign: datetime | None = None
    """when the driver of a run without an end was last at work; None where it left no sign"""

    @property
    def state(self) -> str:
        """As `state_of` has it."""
        return state_of(self.row["outcome"], self.last_sign)


@dataclass(frozen=True)
class LoggedDataset:
    """A derived dataset and the version that added it."""

    row: Mapping[str, Any]
    """of the view `datasets`"""
    version: int


@dataclass(frozen=True)
class LoggedVersion:
    """A version of the ledger and the runs that made it."""

    record: VersionRecord
    runs: Sequence[tuple[str, Mapping[str, Any] | None]]
    """(run id, row of the view `runs`, None where the store does not have it)"""


def state_of(outcome: str | None, sign: datetime | None) -> str:
    """`finished`, `interrupted` or `failed` as recorded, `running` with a fresh sign, else `killed`."""
    return str(outcome or ("running" if is_fresh(sign) else "killed"))


def logged_runs(store: Store, version: StoreVersion) -> Iterator[LoggedRun]:
    """Runs of a version, oldest first."""
    versions = store.ledger.versions_by_run()
    num_rows: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for part in (committed.part for committed in version.listed):
        if not part.lineage:  # compacted rows were counted where they were measured
            num_rows[part.run_id].update({(part.kind, name): n for name, n in part.num_rows.items()})
    for row in fetch_rows(connect(version), read_sql("log.sql")):
        counts = num_rows[row["run_id"]]
        rate = row["worker_seconds"] and counts["trajectory", "effects"] / row["worker_seconds"]
        yield LoggedRun(
            row,
            versions.get(row["run_id"], (0, 0)),
            num_effects=sum(n for (_, table), n in counts.items() if table == "effects"),
            num_joint_edits=counts["joints", "joint_effects"],
            effects_per_second=rate or None,
            last_sign=None if row["outcome"] else last_sign(store.location, row["run_id"]),
        )


def logged_quarantine(version: StoreVersion) -> list[Mapping[str, Any]]:
    """Rows of the view `quarantined`, oldest first."""
    if all(committed.part.kind != "quarantine" for committed in version.parts):
        return []
    return list(fetch_rows(connect(version), "from quarantined order by recorded_at, trajectory_id, kind"))


def logged_datasets(store: Store, version: StoreVersion) -> Iterator[LoggedDataset]:
    """Derived datasets of a version, oldest first."""
    versions = store.ledger.versions_by_run()
    for row in fetch_rows(connect(version), "from datasets order by parent_version, name"):
        yield LoggedDataset(row, versions.get(f"{DERIVED_BY}{row['name']}", (0, 0))[0])


def logged_versions(store: Store, version: StoreVersion) -> Iterator[LoggedVersion]:
    """Versions up to `version`, oldest first."""
    runs = {row["run_id"]: row for row in fetch_rows(connect(version), "from runs")}
    for record in store.ledger.history()[: version.version + 1]:
        yield LoggedVersion(record, [(run_id, runs.get(run_id)) for run_id in record.run_ids])
