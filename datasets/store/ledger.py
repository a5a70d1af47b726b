"""The ledger: a Delta Lake table with one row per part. Appending the row is the commit.

The dataset's version is the ledger's version. A commit builds upon the version that it has read: it leaves
out known parts, checks that every file it names exists, and is retried where another driver was first. So no
part is committed twice (in older ledgers a reader keeps the first row of an id), and each version names its
predecessor (`ledger_chain`).

A ledger's data files never change, so a commit reads what others have committed since, not the whole ledger,
and of all rows it remembers the ids alone: a driver commits millions of parts. `ledger_table` reads and
writes the files.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable

from mctrace.datasets.store.ledger_chain import (
    FOLDER,
    read_heads,
    refuse_cut,
)
from mctrace.datasets.store.ledger_rows import (
    CommittedPart,
    as_table,
)
from mctrace.datasets.store.ledger_table import Change, LedgerTable, remove_actions
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, refuse_missing
from mctrace.errors import StoreError

RUN_IDS = "run_ids"
"""Commit metadata: the runs whose parts a version added, separated by spaces."""
ADDED = "added"
"""Commit metadata: how many parts of each kind a version added."""
WITHDRAWN = "withdrawn"
"""Commit metadata: how many parts of each kind a version took off the list."""
_MOST_TRIES = 500
"""Attempts at a commit while other drivers are first."""
_LONGEST_PAUSE = 0.25
"""Most seconds between two attempts."""
_CHECKPOINT_EVERY = 100
"""Versions after which Delta's log is repeated in one file, so that opening reads few."""
_TIDY_FILES = 256
"""Number of ledger files above which their rows are merged into one, so that opening stays quick."""


@dataclass(frozen=True)
class VersionRecord:
    """Record of one version of the ledger: runs that wrote, and parts added and withdrawn by kind."""

    version: int
    made_at: datetime
    run_ids: tuple[str, ...]
    added: dict[str, int]
    withdrawn: dict[str, int]


@dataclass(frozen=True)
class _Named:
    """What a data file of the ledger names."""

    part_ids: tuple[str, ...]
    latest: datetime | None
    """when the last of them was committed; None in an empty file"""


@dataclass
class Ledger:
    """List of parts of the store at `location`. Remembers the ids it has read; one per process and store."""

    location: Location
    table: LedgerTable = field(init=False, repr=False)
    _named: dict[str, _Named] = field(default_factory=dict, repr=False)
    """by ledger file"""
    _part_ids: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.table = LedgerTable(self.location)

    def create(self) -> None:
        """Creates an empty ledger, version 0; does nothing when there is one or another driver is first."""
        self.table.create()

    def refuse_cut(self) -> None:
        """Raises StoreError when the newest log entry was removed or altered; one listing and one read."""
        heads = read_heads(self.location)
        refuse_cut(self.location, self.version(), heads)

    def version(self) -> int:
        """The newest version. Raises StoreError when there is no ledger."""
        return int(self.table.newest().version())

    def parts(self, version: int | None = None) -> tuple[int, list[CommittedPart]]:
        """The version read (the newest when None) and its parts, in commit order, each id once."""
        found: dict[str, CommittedPart] = {}
        read_version, rows = self.rows(version)
        for committed in rows:
            found.setdefault(committed.part.part_id, committed)
        return read_version, list(found.values())

    def rows(self, version: int | None = None) -> tuple[int, list[CommittedPart]]:
        """Like `parts` with every row, including the second where two drivers committed one part at once."""
        table = self.table.newest() if version is None else self.table.open(version)
        rows = [row for file, size in self.table.files(table) for row in self.table.read(file, size)]
        return int(table.version()), sorted(rows, key=lambda row: (row.committed_at, row.part.folder))

    @property
    def part_ids(self) -> AbstractSet[str]:
        """Ids of the parts listed when this ledger was last refreshed or written; grows with commits."""
        return self._part_ids

    def refresh(self) -> AbstractSet[str]:
        """`part_ids` at the newest version; reads what others have committed since."""
        self._read_ids(self.table.newest())
        return self._part_ids

    def parts_named(self, part_ids: Collection[str]) -> list[Part]:
        """The listed parts with these ids, as of the last reading or writing."""
        wanted, found = set(part_ids), dict[str, Part]()
        sizes = dict(self.table.files(self.table.newest()))
        for file, named in self._named.items():
            if file in sizes and not wanted.isdisjoint(named.part_ids):
                for row in self.table.read(file, sizes[file]):
                    if row.part.part_id in wanted:
                        found.setdefault(row.part.part_id, row.part)
        return list(found.values())

    def files(self, version: int) -> list[tuple[str, int]]:
        """Name and bytes of each data file of a version. Raises StoreError when it cannot be opened."""
        return self.table.files(self.table.open(version))

    def folders_ever_named(self) -> set[str]:
        """Folders of the parts of any version, including those withdrawn since."""
        rows = (row for file, size in self.table.ever_named().items() for row in self.table.read(file, size))
        return {row.part.folder for row in rows}

    def files_ever_named(self) -> set[str]:
        """Data files of the ledger, relative to the store; other files there are of commits never made."""
        return {f"{FOLDER}/{name}" for name in self.table.ever_named()}

    def history(self) -> list[VersionRecord]:
        """Every version, oldest first."""
        return [
            VersionRecord(
                int(commit["version"]),
                datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
                tuple(commit.get(RUN_IDS, "").split()),
                dict(commit.get(ADDED) or {}),
                dict(commit.get(WITHDRAWN) or {}),
            )
            for commit in reversed(self.table.newest().history())
        ]

    def versions_by_run(self) -> dict[str, tuple[int, int]]:
        """The first and the last version each run made."""
        found: dict[str, tuple[int, int]] = {}
        for record in self.history():
            for run_id in record.run_ids:
                first, _ = found.get(run_id, (record.version, 0))
                found[run_id] = (first, record.version)
        return found

    def commit(self, parts: Sequence[Part]) -> list[Part]:
        """Appends the rows of `parts` in one version and returns those that were new.

        What is already in the ledger is left out; nothing is written when nothing is new. Raises StoreError,
        with nothing committed, when a file of a new part is not there with its size.
        """

        committed: list[Part] = []

        def append_new(table: DeltaTable) -> Change | None:
            self._read_ids(table)
            known = self._part_ids
            new = {part.part_id: part for part in reversed(parts) if part.part_id not in known}
            ordered = [part for part in parts if new.get(part.part_id) is part]
            if not ordered:
                return None
            refuse_missing(self.location, ordered)
            now = self._after(datetime.now(UTC))
            committed[:] = ordered
            added = dict(sorted(Counter(part.kind for part in ordered).items()))
            run_ids = " ".join(sorted({part.run_id for part in ordered}))
            return Change([CommittedPart(part, now) for part in ordered], {RUN_IDS: run_ids, ADDED: added})

        if self._transact(append_new) is None:
            return []
        if len(self._named) > _TIDY_FILES:
            self._tidy()
        return committed

    def withdraw(self, part_ids: Collection[str]) -> None:
        """Takes parts off the list in a new version; older versions still name them."""

        def leave_out(table: DeltaTable) -> Change | None:
            files = {file: self.table.read(file, size) for file, size in self.table.files(table)}
            # Only the files that name them are rewritten.
            touched = {f: rows for f, rows in files.items() if any(r.part.part_id in part_ids for r in rows)}
            rows = [row for rows in touched.values() for row in rows]
            gone = {row.part.part_id: row.part.kind for row in rows if row.part.part_id in part_ids}
            kept = [row for row in rows if row.part.part_id not in gone]
            metadata = {RUN_IDS: "", ADDED: {}, WITHDRAWN: dict(sorted(Counter(gone.values()).items()))}
            return Change(kept, metadata, remove_actions(table, touched, data_change=True)) if gone else None

        self._transact(leave_out)

    def _tidy(self) -> None:
        """Merges the rows of all ledger files into one, in a new version that changes nothing else.

        The old files stay for old versions. A driver that dies in between does no harm.
        """

        def put_together(table: DeltaTable) -> Change | None:
            files = self.table.files(table)
            if len(files) <= _TIDY_FILES:
                return None
            # As Arrow: as Python's objects a million rows take gigabytes.
            rows = pa.concat_tables(as_table(self.table.content(file, size)) for file, size in files)
            removed = remove_actions(table, [file for file, _ in files], data_change=False)
            return Change(rows, {}, removed, data_change=False)

        with contextlib.suppress(StoreError):  # the disk is full: the rows are where they were
            self._transact(put_together)

    def _transact(self, change: Callable[[DeltaTable], Change | None]) -> Change | None:
        """Commits the `change` to the newest version; retries while other drivers are first.

        None where `change` returns None.
        """
        for attempt in range(_MOST_TRIES):
            table = self.table.newest()
            made = change(table)
            if made is None:
                return None
            if name := self.table.append(table, made):
                self._remember(name, _names(made.rows))
                return made
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.005 * 2 ** min(attempt, 10))))
        raise StoreError(
            f"cannot commit to the ledger of {self.location.uri}: {_MOST_TRIES} times others were first"
        )

    def _read_ids(self, table: DeltaTable) -> None:
        """Learn what the data files of the newest version name; reads those that are new."""
        files = dict(self.table.files(table))
        for file in [file for file in files if file not in self._named]:
            self._remember(
                file, _names(as_table(self.table.content(file, files[file]), ["part_id", "committed_at"]))
            )
        if gone := self._named.keys() - files:
            for file in gone:
                del self._named[file]
            self._part_ids = {part_id for named in self._named.values() for part_id in named.part_ids}

    def _remember(self, file: str, named: _Named) -> None:
        self._named[file] = named
        self._part_ids.update(named.part_ids)

    def _after(self, now: datetime) -> datetime:
        """Commit time: now, or just after the latest row where a clock was put back."""
        latest = max((named.latest for named in self._named.values() if named.latest), default=None)
        return max(now, latest + timedelta(microseconds=1)) if latest else now


def _names(rows: Sequence[CommittedPart] | pa.Table) -> _Named:
    if isinstance(rows, pa.Table):
        times = rows["committed_at"].to_pylist()
        return _Named(tuple(rows["part_id"].to_pylist()), max(times, default=None))
    return _Named(
        tuple(row.part.part_id for row in rows), max((row.committed_at for row in rows), default=None)
    )
