"""The Delta Lake table under the ledger: opening versions, reading data files, appending one version.

Its rows are written here and not by deltalake, which would neither sync the file before the log names it nor
detect a file that changed afterwards. `ledger.py` decides what a version adds and removes.
"""

import contextlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from mctrace.datasets.store.ledger_rows import PREFIX, CommittedPart, file_name, from_parquet, to_parquet
from mctrace.datasets.store.location import Location, sync_file, sync_folder
from mctrace.datasets.store.schemas import LEDGER
from mctrace.errors import StoreError, one_line

_CHECKPOINT_EVERY = 100
"""Versions after which Delta's log is repeated in one file, so that opening reads few."""


@dataclass(frozen=True)
class Change:
    """Content of a new version: rows to add, their commit metadata, and data files to remove."""

    rows: Sequence[CommittedPart] | pa.Table
    metadata: dict[str, Any]
    removed: Sequence[RemoveAction] = ()
    data_change: bool = True


@dataclass
class LedgerTable:
    """The ledger of the store at `location` as a Delta table, kept open at its newest version."""

    location: Location
    _table: DeltaTable | None = field(default=None, repr=False)

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
        if int(self.newest().version()) == 0 and not read_heads(self.location):
            write_head(self.location, seal(self.location, 0), None, ())

    def newest(self) -> DeltaTable:
        """Table at its newest version; reads only new log entries."""
        if self._table is None:
            self._table = self.open(None)
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

    def open(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self._uri, version=version)
        except TableNotFoundError as error:
            raise StoreError(
                f"{self.location.uri} is not a trace store: no ledger in it (mctrace init)"
            ) from error
        except (DeltaError, OSError) as error:
            if version is None:
                raise self._damaged(error) from error
            newest = self.open(None).version()
            raise StoreError(
                f"{self.location.uri}: version {version} cannot be opened; versions are 0 to {newest}"
            ) from error

    def files(self, table: DeltaTable) -> list[tuple[str, int]]:
        """Name and bytes of each data file of a version."""
        actions = pa.table(table.get_add_actions())
        return sorted(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))

    def read(self, file: str, size: int) -> list[CommittedPart]:
        """The rows of a data file. Raises StoreError when it is not what its name and the log say."""
        content = self.content(file, size)
        try:
            return from_parquet(content)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def content(self, file: str, size: int) -> bytes:
        try:
            content = self.location.read_bytes(f"{FOLDER}/{file}")
            if len(content) != size:
                raise StoreError(f"{FOLDER}/{file} has {len(content)} bytes, the log says {size}")
            if file.startswith(PREFIX) and file != file_name(content):
                raise StoreError(f"{FOLDER}/{file} has other content than the hash in its name says")
        except OSError as error:
            raise self._damaged(error) from error
        return content

    def ever_named(self) -> dict[str, int]:
        """Every data file that a version ever named, and its bytes."""
        named: dict[str, int] = {}
        try:
            places = map(log_entry, range(int(self.newest().version()) + 1))
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

    def append(self, table: DeltaTable, change: Change) -> str | None:
        """Commits the version after `table`: the name of its data file.

        None, with nothing written, when another driver was first. Raises StoreError when there is no writing.
        Delta's own retries would apply the change to a version that it has not read.
        """
        version, heads = int(table.version()), read_heads(self.location)
        if heads and heads[-1].entry.version > version and int(self.newest().version()) > version:
            return None
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
            newest = self.newest()
            if name not in (file for file, _ in self.files(newest)):  # else it was made after all
                self._forget(name)
                if int(newest.version()) > version:
                    return None
                what = f"cannot commit to the ledger of {self.location.uri}: {one_line(error)}"
                raise StoreError(what) from error
        self._seal(version + 1, heads)
        return name

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

    def _sync_log(self, version: int) -> None:
        """Syncs a version's log entry and its checkpoint to disk; its data file is synced before."""
        if not self.location.is_local:
            return
        folder = Path(self.location.path(LOG_FOLDER))
        for name in (f"{version:020}.json", f"{version:020}.checkpoint.parquet", "_last_checkpoint"):
            if (folder / name).exists():
                sync_file(folder / name)
        sync_folder(folder)


def remove_actions(table: DeltaTable, files: Collection[str], *, data_change: bool) -> list[RemoveAction]:
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
