"""The ledger: a Delta Lake table with one row per part. Appending the row is the commit.

The dataset's version is the ledger's version. A commit builds upon the version that it has read: it leaves
out known parts, checks that every file it names exists, and is retried where another driver was first. So no
part is committed twice (in older ledgers a reader keeps the first row of an id), and each version names its
predecessor (`ledger_chain`).

A ledger's data files never change, so a commit reads what others have committed since, not the whole ledger,
and of all rows it remembers the ids alone: a driver commits millions of parts. Rows are written here and not
by deltalake, which would neither sync the file before the log names it nor detect a file that changed
afterwards.
"""

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from mctrace.datasets.store.ledger_chain import (
    FOLDER,
    HEAD,
    LOG_FOLDER,
    PREVIOUS,
    Head,
    Log,
    Sealed,
    chain_problems,
    checkpoint,
    log_entry,
    read_heads,
    refuse_cut,
    seal,
    write_head,
)
from mctrace.datasets.store.ledger_rows import (
    PREFIX,
    CommittedPart,
    as_table,
    file_name,
    from_parquet,
    to_parquet,
)
from mctrace.datasets.store.location import Location, sync_file, sync_folder
from mctrace.datasets.store.parts import Part, refuse_missing
from mctrace.datasets.store.schemas import LEDGER
from mctrace.errors import StoreError, one_line

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
class _Change:
    """Content of a new version: rows to add, their commit metadata, and data files to remove."""

    rows: Sequence[CommittedPart] | pa.Table
    metadata: dict[str, Any]
    removed: Sequence[RemoveAction] = ()
    data_change: bool = True


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
    _table: DeltaTable | None = field(default=None, repr=False)
    _named: dict[str, _Named] = field(default_factory=dict, repr=False)
    """by ledger file"""
    _part_ids: set[str] = field(default_factory=set, repr=False)

    @property
    def _uri(self) -> str:
        return f"{self.location.uri}/{FOLDER}"

    def create(self) -> None:
        """Creates an empty ledger, version 0; does nothing when there is one or another driver is first.

        Delta's own retries would create it a second time, as version 1.
        """
        try:
            self._table = DeltaTable.create(
                self._uri,
                schema=LEDGER,
                mode="ignore",
                # Old versions stay readable for as long as anyone names them.
                configuration={"delta.enableExpiredLogCleanup": "false"},
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except DeltaError:
            if not DeltaTable.is_deltatable(self._uri):
                raise
        self._sync_log(0)
        # Beside an old ledger that has none, the next commit makes the first.
        if self.version() == 0 and not read_heads(self.location):
            write_head(self.location, seal(self.location, 0), None, ())

    def refuse_cut(self) -> None:
        """Raises StoreError when the newest log entry was removed or altered; one listing and one read."""
        heads = read_heads(self.location)
        refuse_cut(self.location, self.version(), heads)

    def version(self) -> int:
        """The newest version. Raises StoreError when there is no ledger."""
        return int(self._newest().version())

    def parts(self, version: int | None = None) -> tuple[int, list[CommittedPart]]:
        """The version read (the newest when None) and its parts, in commit order, each id once."""
        found: dict[str, CommittedPart] = {}
        read_version, rows = self.rows(version)
        for committed in rows:
            found.setdefault(committed.part.part_id, committed)
        return read_version, list(found.values())

    def rows(self, version: int | None = None) -> tuple[int, list[CommittedPart]]:
        """Like `parts` with every row, including the second where two drivers committed one part at once."""
        table = self._newest() if version is None else self._open(version)
        rows = [row for file, size in self._files(table) for row in self.read(file, size)]
        return int(table.version()), sorted(rows, key=lambda row: (row.committed_at, row.part.folder))

    @property
    def part_ids(self) -> AbstractSet[str]:
        """Ids of the parts listed when this ledger was last refreshed or written; grows with commits."""
        return self._part_ids

    def refresh(self) -> AbstractSet[str]:
        """`part_ids` at the newest version; reads what others have committed since."""
        self._read_ids(self._newest())
        return self._part_ids

    def parts_named(self, part_ids: Collection[str]) -> list[Part]:
        """The listed parts with these ids, as of the last reading or writing."""
        wanted, found = set(part_ids), dict[str, Part]()
        sizes = dict(self._files(self._newest()))
        for file, named in self._named.items():
            if file in sizes and not wanted.isdisjoint(named.part_ids):
                for row in self.read(file, sizes[file]):
                    if row.part.part_id in wanted:
                        found.setdefault(row.part.part_id, row.part)
        return list(found.values())

    def files(self, version: int) -> list[tuple[str, int]]:
        """Name and bytes of each data file of a version. Raises StoreError when it cannot be opened."""
        return self._files(self._open(version))

    def folders_ever_named(self) -> set[str]:
        """Folders of the parts of any version, including those withdrawn since."""
        rows = (row for file, size in self._ever_named().items() for row in self.read(file, size))
        return {row.part.folder for row in rows}

    def files_ever_named(self) -> set[str]:
        """Data files of the ledger, relative to the store; other files there are of commits never made."""
        return {f"{FOLDER}/{name}" for name in self._ever_named()}

    def _ever_named(self) -> dict[str, int]:
        """Every data file that a version ever named, and its bytes."""
        named: dict[str, int] = {}
        try:
            places = map(log_entry, range(self.version() + 1))
            for content in self.location.each(self.location.read_bytes, places):
                for line in content.splitlines():
                    for key, action in json.loads(line).items():
                        if key == "add":
                            named[action["path"]] = action["size"]
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"the ledger of {self.location.uri} is damaged: {error} (mctrace verify)"
            ) from error
        return named

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
            for commit in reversed(self._newest().history())
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

        def append_new(table: DeltaTable) -> _Change | None:
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
            return _Change([CommittedPart(part, now) for part in ordered], {RUN_IDS: run_ids, ADDED: added})

        if self._transact(append_new) is None:
            return []
        if len(self._named) > _TIDY_FILES:
            self._tidy()
        return committed

    def withdraw(self, part_ids: Collection[str]) -> None:
        """Takes parts off the list in a new version; older versions still name them."""

        def leave_out(table: DeltaTable) -> _Change | None:
            files = {file: self.read(file, size) for file, size in self._files(table)}
            # Only the files that name them are rewritten.
            touched = {f: rows for f, rows in files.items() if any(r.part.part_id in part_ids for r in rows)}
            rows = [row for rows in touched.values() for row in rows]
            gone = {row.part.part_id: row.part.kind for row in rows if row.part.part_id in part_ids}
            kept = [row for row in rows if row.part.part_id not in gone]
            metadata = {RUN_IDS: "", ADDED: {}, WITHDRAWN: dict(sorted(Counter(gone.values()).items()))}
            return (
                _Change(kept, metadata, _remove_actions(table, touched, data_change=True)) if gone else None
            )

        self._transact(leave_out)

    def _tidy(self) -> None:
        """Merges the rows of all ledger files into one, in a new version that changes nothing else.

        The old files stay for old versions. A driver that dies in between does no harm.
        """

        def put_together(table: DeltaTable) -> _Change | None:
            files = self._files(table)
            if len(files) <= _TIDY_FILES:
                return None
            # As Arrow: as Python's objects a million rows take gigabytes.
            rows = pa.concat_tables(as_table(self._content(file, size)) for file, size in files)
            removed = _remove_actions(table, [file for file, _ in files], data_change=False)
            return _Change(rows, {}, removed, data_change=False)

        with contextlib.suppress(StoreError):  # the disk is full: the rows are where they were
            self._transact(put_together)

    def _transact(self, change: Callable[[DeltaTable], _Change | None]) -> _Change | None:
        """Commits the `change` to the newest version; retries while other drivers are first.

        None where `change` returns None.
        """
        for attempt in range(_MOST_TRIES):
            table = self._newest()
            made = change(table)
            if made is None or self._append(table, made):
                return made
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.005 * 2 ** min(attempt, 10))))
        raise StoreError(
            f"cannot commit to the ledger of {self.location.uri}: {_MOST_TRIES} times others were first"
        )

    def _append(self, table: DeltaTable, change: _Change) -> bool:
        """Commits the version after `table`; False, with nothing written, when another driver was first.

        Delta's own retries would apply the change to a version that it has not read.
        """
        version, heads = int(table.version()), read_heads(self.location)
        if heads and heads[-1].entry.version > version and self.version() > version:
            return False
        refuse_cut(self.location, version, heads)
        stands_upon = seal(self.location, version)
        content = to_parquet(change.rows)
        name = file_name(content)
        add = AddAction(
            name,
            len(content),
            {},
            int(datetime.now(UTC).timestamp() * 1000),
            change.data_change,
            json.dumps({"numRecords": len(change.rows)}),
        )
        chained = {
            PREVIOUS: {"version": stands_upon.version, "sha256": stands_upon.sha256},
            HEAD: heads[-1].name if heads else None,
        }
        try:
            self.location.write_bytes(f"{FOLDER}/{name}", content)
            table.create_write_transaction(
                [add, *change.removed],
                "append",
                LEDGER,
                commit_properties=CommitProperties(
                    custom_metadata=change.metadata | chained, max_commit_retries=0
                ),
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        except (DeltaError, OSError) as error:
            newest = self._newest()
            if name not in (file for file, _ in self._files(newest)):  # else it was made after all
                self._forget(name)
                if int(newest.version()) > version:
                    return False
                what = f"cannot commit to the ledger of {self.location.uri}: {one_line(error)}"
                raise StoreError(what) from error
        self._remember(name, _names(change.rows))
        self._seal(version + 1, heads)
        return True

    def _forget(self, name: str) -> None:
        """Removes the data file of a version that was not made."""
        with contextlib.suppress(OSError):
            self.location.remove_file(f"{FOLDER}/{name}")

    def _seal(self, version: int, seen: Sequence[Head]) -> None:
        """Syncs a commit to disk and records it in the head.

        Errors, as of a full disk, are ignored: the commit was made, and a missing head is harmless.
        """
        try:
            self._sync_log(version)
            made = None
            if version % _CHECKPOINT_EVERY == 0:
                DeltaTable(self._uri, version=version).create_checkpoint()
                made = Sealed(version, sha256(self.location.read_bytes(checkpoint(version))).hexdigest())
                self._sync_log(version)
            write_head(self.location, seal(self.location, version), made, seen)
        except (DeltaError, OSError):
            return

    def _newest(self) -> DeltaTable:
        """Table at its newest version; reads only new log entries."""
        if self._table is None:
            self._table = self._open(None)
        else:
            try:
                self._table.update_incremental()
            except (DeltaError, OSError) as error:
                raise self._damaged(error) from error
        return self._table

    def _damaged(self, error: Exception) -> StoreError:
        """Error for what Delta could not read, naming the file where the chain identifies it."""
        found: list[str] = []
        with contextlib.suppress(OSError):
            problems = chain_problems(self.location, Log.read(self.location))
            found = [f"{place} {what}" for place, what in problems]
        what = "; ".join(found[:3]) or one_line(error)
        return StoreError(f"the ledger of {self.location.uri} is damaged: {what} (mctrace verify)")

    def _open(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self._uri, version=version)
        except TableNotFoundError as error:
            raise StoreError(
                f"{self.location.uri} is not a trace store: no ledger in it (mctrace init)"
            ) from error
        except (DeltaError, OSError) as error:
            if version is None:
                raise self._damaged(error) from error
            newest = self._open(None).version()
            raise StoreError(
                f"{self.location.uri}: version {version} cannot be opened; versions are 0 to {newest}"
            ) from error

    def _files(self, table: DeltaTable) -> list[tuple[str, int]]:
        """Name and bytes of each data file of a version."""
        actions = pa.table(table.get_add_actions())
        return sorted(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))

    def _read_ids(self, table: DeltaTable) -> None:
        """Learn what the data files of the newest version name; reads those that are new."""
        files = dict(self._files(table))
        for file in [file for file in files if file not in self._named]:
            self._remember(
                file, _names(as_table(self._content(file, files[file]), ["part_id", "committed_at"]))
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

    def read(self, file: str, size: int) -> list[CommittedPart]:
        """The rows of a data file. Raises StoreError when it is not what its name and the log say."""
        content = self._content(file, size)
        try:
            return from_parquet(content)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _content(self, file: str, size: int) -> bytes:
        try:
            content = self.location.read_bytes(f"{FOLDER}/{file}")
            if len(content) != size:
                raise StoreError(f"{FOLDER}/{file} has {len(content)} bytes, the log says {size}")
            if file.startswith(PREFIX) and file != file_name(content):
                raise StoreError(f"{FOLDER}/{file} has other content than the hash in its name says")
        except OSError as error:
            raise self._damaged(error) from error
        return content

    def _sync_log(self, version: int) -> None:
        """Syncs a version's log entry and its checkpoint to disk; its data file is synced before."""
        if not self.location.is_local:
            return
        folder = Path(self.location.path(LOG_FOLDER))
        for name in (f"{version:020}.json", f"{version:020}.checkpoint.parquet", "_last_checkpoint"):
            if (folder / name).exists():
                sync_file(folder / name)
        sync_folder(folder)


def _names(rows: Sequence[CommittedPart] | pa.Table) -> _Named:
    if isinstance(rows, pa.Table):
        times = rows["committed_at"].to_pylist()
        return _Named(tuple(rows["part_id"].to_pylist()), max(times, default=None))
    return _Named(
        tuple(row.part.part_id for row in rows), max((row.committed_at for row in rows), default=None)
    )


def _remove_actions(table: DeltaTable, files: Collection[str], *, data_change: bool) -> list[RemoveAction]:
    now = int(datetime.now(UTC).timestamp() * 1000)
    actions = pa.table(table.get_add_actions()).to_pylist()
    return [
        RemoveAction(
            path=a["path"], deletion_timestamp=now, data_change=data_change, partition_values={},
            size=a["size_bytes"],
        )
        for a in actions
        if a["path"] in files
    ]  # fmt: skip
