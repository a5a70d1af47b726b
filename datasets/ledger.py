"""The ledger: a Delta Lake table with one row per part. Appending the row is the commit.

The dataset's version is the ledger's version. Two drivers may commit the same part at the same moment,
which Delta does not refuse; so a commit leaves out what is already there, and a reader keeps the first row
of an id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from mctrace.context.errors import StoreError
from mctrace.datasets.location import Location, sync_file, sync_folder
from mctrace.datasets.parts import Part, PartFile
from mctrace.datasets.schemas import LEDGER

_FOLDER = "ledger"
_RUNS = "run_ids"
"""Commit metadata: the runs whose parts a version added, separated by spaces."""
_COMMIT_RETRIES = 100
"""With the default, 8 writers lose about 4% of their commits."""


@dataclass(frozen=True)
class CommittedPart:
    """A part as a version of the ledger lists it."""

    part: Part
    committed_at: datetime


@dataclass(frozen=True)
class Ledger:
    """The list of parts of the store at `location`."""

    location: Location

    @property
    def _uri(self) -> str:
        return f"{self.location.uri}/{_FOLDER}"

    def create(self) -> None:
        """An empty ledger, version 0; does nothing when there is one."""
        DeltaTable.create(
            self._uri,
            schema=LEDGER,
            mode="ignore",
            # Old versions stay readable for as long as anyone names them.
            configuration={"delta.enableExpiredLogCleanup": "false"},
        )
        self._sync()

    def version(self) -> int:
        """The newest version. Raises StoreError when there is no ledger."""
        return int(self._open(None).version())

    def parts(self, version: int | None = None) -> tuple[int, list[CommittedPart]]:
        """The version read (the newest when None) and its parts, in commit order, each id once."""
        table = self._open(version)
        # Not to_pyarrow_table: its dataset threads now and then abort the interpreter when it exits.
        try:
            rows = pa.table(table.scan()).to_pylist()
        except (pa.ArrowException, DeltaError, OSError) as error:
            raise StoreError(f"the ledger of {self.location.uri} is damaged: {error}") from error
        rows.sort(key=lambda row: (row["committed_at"], row["folder"]))
        found: dict[str, CommittedPart] = {}
        for row in rows:
            found.setdefault(row["part_id"], _from_row(row))
        return int(table.version()), list(found.values())

    def versions_by_run(self) -> dict[str, tuple[int, int]]:
        """The first and the last version each run made."""
        found: dict[str, tuple[int, int]] = {}
        for commit in self._open(None).history():  # newest first
            for run_id in commit.get(_RUNS, "").split():
                _, last = found.get(run_id, (0, int(commit["version"])))
                found[run_id] = (int(commit["version"]), last)
        return found

    def commit(self, parts: Sequence[Part]) -> list[Part]:
        """Appends the rows of `parts` in one version and returns those that were new.

        What is already in the ledger is left out; nothing is written when nothing is new.
        """
        known = {committed.part.part_id for committed in self.parts()[1]}
        new = [part for part in parts if part.part_id not in known]
        if new:
            now = datetime.now(UTC)
            runs = " ".join(sorted({part.run_id for part in new}))
            rows = pa.Table.from_pylist([_to_row(part, now) for part in new], schema=LEDGER)
            write_deltalake(
                self._uri,
                rows,
                mode="append",
                commit_properties=CommitProperties(
                    custom_metadata={_RUNS: runs}, max_commit_retries=_COMMIT_RETRIES
                ),
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )
            self._sync()
        return new

    def _open(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self._uri, version=version)
        except TableNotFoundError as error:
            raise StoreError(
                f"{self.location.uri} is not a trace store: no ledger in it (mctrace init)"
            ) from error
        except DeltaError as error:
            if version is None:
                raise StoreError(f"the ledger of {self.location.uri} is damaged: {error}") from error
            newest = self._open(None).version()
            raise StoreError(
                f"{self.location.uri}: version {version} cannot be opened; versions are 0 to {newest}"
            ) from error

    def _sync(self) -> None:
        """The newest log entry and what it names, on disk."""
        if not self.location.is_local:
            return
        folder = Path(self.location.path(_FOLDER))
        for part in (folder, folder / "_delta_log"):
            for file in sorted(part.glob("*.*"), key=lambda f: f.stat().st_mtime)[-4:]:
                sync_file(file)
            sync_folder(part)


def _to_row(part: Part, now: datetime) -> dict[str, object]:
    return {
        "part_id": part.part_id,
        "kind": part.kind,
        "run_id": part.run_id,
        "committed_at": now,
        "folder": part.folder,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in part.files],
        "tables": [{"name": name, "num_rows": count} for name, count in part.num_rows.items()],
        "lineage": list(part.lineage),
    }


def _from_row(row: dict[str, Any]) -> CommittedPart:
    part = Part(
        row["part_id"],
        row["kind"],
        row["run_id"],
        row["folder"],
        tuple(PartFile(**file) for file in row["files"]),
        {table["name"]: table["num_rows"] for table in row["tables"]},
        tuple(row["lineage"]),
    )
    return CommittedPart(part, row["committed_at"])
