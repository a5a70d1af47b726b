"""A trace store: a location, its ledger, and one version of what it holds.

Two rules: parts are written once; one ledger says which parts exist.
"""

import json
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

from deltalake.exceptions import DeltaError

from mctrace.datasets.store.file_verification import known_to_match, matches_ledger
from mctrace.datasets.store.ledger import Ledger
from mctrace.datasets.store.ledger_chain import FOLDER, HEAD_FOLDER, log_entry
from mctrace.datasets.store.ledger_rows import CommittedPart
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import STAGING, Part
from mctrace.datasets.store.schemas import FORMAT_VERSION, TABLES
from mctrace.datasets.store.sweep_notices import FOLDER as SWEEPS
from mctrace.datasets.store.sweep_notices import noticed
from mctrace.datasets.store.table_download import MOST_BYTES, readable_files
from mctrace.errors import InputError, StoreError, one_line

DATASET_KIND = "dataset"
DERIVED_BY = "derived:"
"""Prefix of a dataset's name in its part's `run_id`, where other parts name their run."""
DERIVED_TABLES = ("derived_labels", "derived_pairs")
"""Tables that are read only through the dataset that holds them."""

DAMAGE_REMEDY = (
    "mctrace verify names every damaged file, to be put back from a copy; sql, log, train, evaluate, report, "
    "show and export read around them with --skip-damaged; after mctrace verify --withdraw the same collect "
    "measures them again"
)

_MARKER = "mctrace-store.json"
_OWN_NAMES = {_MARKER, FOLDER, HEAD_FOLDER, SWEEPS, STAGING, "parts"}


@dataclass(frozen=True)
class Store:
    """Trace store for writing: commits parts, and opens versions to read."""

    location: Location

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.location)

    def at(self, version: int | None = None, *, even_if_cut: bool = False) -> "StoreVersion":
        """Version to read; the newest when None.

        Raises StoreError when it does not exist and, unless `even_if_cut`, when the newest entries of the
        ledger's log were removed or altered.
        """
        if not even_if_cut:
            self.ledger.refuse_cut()
        read_version, parts = self.ledger.parts(version)
        return StoreVersion(self.location, read_version, tuple(parts))

    def commit(self, parts: Iterable[Part]) -> list[Part]:
        """Commits parts in one version and returns the new ones; removes files of parts committed before.

        Raises StoreError, with nothing committed, when a file of a new part is missing.
        """
        parts = list(parts)
        new = self.ledger.commit(parts)
        self._take_back_swept(new)
        if len(new) < len(parts):
            # A commit that was made and then failed is retried with parts that the ledger already names.
            named = {row.part.folder for row in self.ledger.rows()[1]}
            for part in parts:
                if part.folder not in named:
                    self.location.remove_folder(part.folder)
        return new

    def _take_back_swept(self, new: list[Part]) -> None:
        """Withdraws a commit that names what a sweep announced to remove. Raises StoreError in that case."""
        try:
            swept = noticed(self.location, new)
        except StoreError:
            self.ledger.withdraw({part.part_id for part in new})
            raise
        if swept:
            self.ledger.withdraw({part.part_id for part in new})
            raise StoreError(
                f"a sweep of {self.location.uri} removed {swept[0].folder} and {len(swept) - 1} other parts "
                "while they were committed: they were withdrawn, the same command makes them again (while "
                "anything runs, sweep with the default --grace)"
            )


@dataclass(frozen=True)
class StoreVersion:
    """Version of a store: the parts it lists, in commit order."""

    location: Location
    version: int
    listed: tuple[CommittedPart, ...] = field(repr=False)
    """every part, including those that a compaction replaced"""
    dataset: str | None = None
    """name of the derived dataset through which labels are read; None for the store's own"""

    @cached_property
    def parts(self) -> tuple[CommittedPart, ...]:
        """Parts to read: a compacted part replaces the parts of its kind in its lineage."""
        replaced: set[tuple[str, str]] = set()
        void: set[str] = set()
        for part in (c.part for c in self.listed if c.part.lineage):
            named = {(part.kind, one) for one in part.lineage}
            if named & replaced:  # two compactions at once: the second one's parts are taken already
                void.add(part.part_id)
            else:
                replaced |= named
        return tuple(
            c
            for c in self.listed
            if (c.part.kind, c.part.part_id) not in replaced and c.part.part_id not in void
        )

    @cached_property
    def by_folder(self) -> dict[str, Part]:
        """Every listed part, by folder."""
        return {committed.part.folder: committed.part for committed in self.listed}

    @cached_property
    def part_ids(self) -> frozenset[str]:
        """Ids of every listed part: none of these is written again."""
        return frozenset(committed.part.part_id for committed in self.listed)

    def without(self, part_ids: Collection[str]) -> "StoreVersion":
        """The same version without some parts, as if they had never existed.

        Where one of them is a compacted part, those that it replaced are read again.
        """
        kept = [c for c in self.listed if c.part.part_id not in part_ids]
        return replace(self, listed=tuple(kept))

    @cached_property
    def datasets(self) -> dict[str, Part]:
        """Derived datasets by name, in commit order; of two with one name, the first."""
        found: dict[str, Part] = {}
        for part in (committed.part for committed in self.parts if committed.part.kind == DATASET_KIND):
            found.setdefault(part.run_id.removeprefix(DERIVED_BY), part)
        return found

    def read_through(self, dataset: str | None) -> "StoreVersion":
        """The same version with the labels or pairs of a derived dataset in place of its own.

        None is the store itself. Raises InputError for a name that no dataset has.
        """
        if dataset is not None and dataset not in self.datasets:
            known = ", ".join(self.datasets) or "none"
            raise InputError(
                f"no dataset {dataset!r} in {self.location.uri} at version {self.version}; there is {known} "
                "(mctrace derive makes one)"
            )
        return replace(self, dataset=dataset)

    @property
    def derived_tables(self) -> tuple[str, ...]:
        """Tables of which the dataset holds rows; none without a dataset."""
        if self.dataset is None:
            return ()
        return tuple(name for name in self.datasets[self.dataset].num_rows if name in DERIVED_TABLES)

    def refuse_damaged(self, *, hash_tables: bool = False) -> None:
        """Raises StoreError when a file is missing or has another size than the ledger says.

        `hash_tables`: also when a table has other content, for callers that read all of them. Arrays are
        hashed as they are read, and tables as they are downloaded from an object store.
        """
        found = self.location.sizes("parts")
        for committed in self.parts:
            folder = committed.part.folder
            for file in committed.part.files:
                place = f"{folder}/{file.path}"
                if found.get(place) != file.size:
                    raise damaged_file(self.location, place)
        if hash_tables:
            self._refuse_altered_tables()

    def _refuse_altered_tables(self) -> None:
        tables = [
            (f"{part.folder}/{file.path}", file)
            for part in (committed.part for committed in self.parts)
            for file in part.files
            if file.path.endswith(".parquet") and (self.location.is_local or file.size > MOST_BYTES)
        ]
        unseen = [one for one in tables if not known_to_match(self.location, *one)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing holds no lock
            rights = pool.map(lambda one: matches_ledger(self.location, *one), unseen)
            for (place, _), right in zip(unseen, rights, strict=True):
                if not right:
                    raise damaged_file(self.location, place)

    def table_files(self, table: str, *, todays_columns: bool | None = None) -> list[str]:
        """Parquet files that hold rows of `table`, by the names under which DuckDB opens them.

        `todays_columns`: only those known to have every current column (True), or only the others (False).
        Raises StoreError when a file cannot be downloaded or differs from what the ledger says.
        """
        assert table in TABLES, table
        parts = [committed.part for committed in self.parts]
        if table in DERIVED_TABLES:
            parts = [self.datasets[self.dataset]] if self.dataset else []
        places = [
            (f"{part.folder}/{file.path}", file)
            for part in parts
            if part.num_rows.get(table) and todays_columns in (None, part.has_todays_columns)
            for file in part.files
            if file.path == f"{table}.parquet"
        ]
        return readable_files(self.location, places)


def damaged_file(location: Location, place: str) -> StoreError:
    """Error for a file that differs from what the ledger says."""
    return StoreError(f"{location.uri}/{place} is missing or damaged ({DAMAGE_REMEDY})")


def create_store(uri: str) -> Store:
    """Store at `uri`, created if there is none. Raises StoreError when other files are in the way."""
    location = Location.of(uri)
    if not location.exists(_MARKER):
        try:
            _refuse_other_files(location)
            Ledger(location).create()
            location.write_bytes(_MARKER, json.dumps({"format_version": FORMAT_VERSION}).encode())
        except (OSError, DeltaError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot create a store at {uri}: {one_line(error)}") from error
    return open_store(uri)


def _refuse_other_files(location: Location) -> None:
    """Raises StoreError for foreign files; files of an unfinished creation are no obstacle."""
    if not location.filesystem.exists(location.root):
        return
    found = {str(path).rsplit("/", 1)[1] for path in location.filesystem.ls(location.root, detail=False)}
    if any(not name.startswith(f".{_MARKER}") for name in found - _OWN_NAMES):
        raise StoreError(
            f"{location.uri} holds other files and is not a trace store: choose an empty or new folder"
        )


def find_store(uri: str) -> Store | None:
    """Store at `uri`; None where there is none. Raises StoreError like `open_store`."""
    return open_store(uri) if Location.of(uri).exists(_MARKER) else None


def open_store(uri: str) -> Store:
    """Existing store at `uri`. Raises StoreError when there is none or a newer mctrace wrote it."""
    location = Location.of(uri)
    if not location.exists(_MARKER):
        if location.exists(log_entry(0)):
            raise StoreError(f"{uri}/{_MARKER} is missing beside a ledger: 'mctrace init' writes it again")
        raise StoreError(f"no trace store at {uri}: make one with 'mctrace init' or 'mctrace collect'")
    try:
        found = json.loads(location.read_bytes(_MARKER))["format_version"]
        if type(found) is not int or found < 1:
            raise ValueError(f"format_version is {found!r}, a whole number from 1 on was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise StoreError(
            f'{uri}/{_MARKER} is damaged: {what}; its content is {{"format_version": {FORMAT_VERSION}}}'
        ) from error
    if found > FORMAT_VERSION:
        raise StoreError(
            f"the store at {uri} has format {found}, this mctrace reads up to {FORMAT_VERSION}: "
            "upgrade mctrace"
        )
    return Store(location)
