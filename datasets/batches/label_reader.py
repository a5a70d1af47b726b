"""Reading labels: snapshots of a version with their labels and targets, without a base model.

Labels and targets come from SQL and go to files that are mapped into memory (`label_files`), arrays come
from Zarr; `collate` gathers a snapshot's embeddings when it assembles a batch, so that no snapshot keeps what
can be looked up.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb

from mctrace.context.tree import Absence
from mctrace.datasets.batches.arrow_files import arrow_folder
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.label_files import (
    LabelledSnapshot,
    Snapshots,
    open_label_files,
    write_label_files,
)
from mctrace.datasets.batches.stored_maps import read_provenance
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.sql.sandbox import check_condition, plain_query
from mctrace.datasets.sql.target import Target
from mctrace.datasets.sql.target_merging import Merge
from mctrace.datasets.store.provenance import Mix, Provenance
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError

Item = TypeVar("Item")
Made = TypeVar("Made")
Used = TypeVar("Used")


class OncePerMachine(Protocol):
    """Runs `make` in one process of each machine, and `use` of what it gives in every process."""

    def __call__(
        self, make: Callable[[], AbstractContextManager[Made]], use: Callable[[Made], Used]
    ) -> Used: ...


def alone(make: Callable[[], AbstractContextManager[Made]], use: Callable[[Made], Used]) -> Used:
    """The only process of its machine."""
    with make() as made:
        return use(made)


@dataclass(frozen=True)
class TrainingData:
    """Labelled snapshots of a version under one target; see `open_training_data`."""

    version: StoreVersion
    target: Target
    arrays: DocumentEmbeddings
    utility_scale: float
    splits: Mapping[str, Snapshots]
    absence: Absence
    """`tree.absence` of the labels; off where no trajectory's blocks may be absent"""
    num_without_target: int

    @property
    def provenance(self) -> Provenance:
        return self.arrays.provenance

    @property
    def embedding_dim(self) -> int:
        return self.arrays.embedding_dim

    @property
    def merge(self) -> Merge:
        return self.target.merge

    def snapshots(self, split: str) -> Sequence[LabelledSnapshot]:
        """Snapshots of a split. Raises InputError when it is unknown or empty."""
        return of_split(self.splits, split, self.version, "labelled snapshot")


def of_split(
    splits: Mapping[str, Sequence[Item]], split: str, version: StoreVersion, what: str
) -> Sequence[Item]:
    """Items of a split. Raises InputError when there is no such split or nothing in it."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    found = splits.get(split, ())
    if not found:
        others = [f"{name} has {len(items)}" for name, items in splits.items() if items]
        raise InputError(
            f"the {split} split of {version.location.uri} at version {version.version} has no {what}"
            + (f" ({', '.join(others)})" if others else "")
            + ": collect more documents"
        )
    return found


def open_training_data(
    version: StoreVersion,
    target: str | Target = "value",
    utility_scale: float | None = None,
    *,
    where: str = "",
    mix: Collection[Mix] = (),
    with_attention: bool = False,
    make_rows: Callable[[Path], Mapping[str, Path]] | None = None,
    limits: SqlLimits | None = None,
    once_per_machine: OncePerMachine = alone,
) -> TrainingData:
    """Opens labels and maps of `version` under `target`, for the rows that satisfy `where`.

    They are written to a temporary folder, by one process of each machine, and mapped into memory from there.

    Args:
        where: SQL condition over the target's columns; it does not change what the target computes, such as
            prices.
        utility_scale: nats per unit of score; fitted on the chosen rows of the training split unless given,
            as it must be to evaluate a checkpoint.
        make_rows: writes files of a derived dataset that the store does not keep into a folder, and names
            them by table (`rows` of `connect`).
        limits: of the memory and disk of SQL.

    Raises InputError when there is nothing to learn from, or when labels differ in base model, GistNet or
    dtype and `mix` does not name that; labels of different trees never mix.
    """
    target = Target.named(target) if isinstance(target, str) else target

    @contextmanager
    def written() -> Iterator[_Written]:
        version.refuse_damaged(hash_tables=True)
        with arrow_folder("labels") as folder:
            rows = make_rows(folder) if make_rows else None
            with connect(version, rows=rows, limits=limits) as connection:
                files = _write_labels(
                    connection,
                    version,
                    target,
                    folder,
                    utility_scale,
                    where,
                    mix,
                    with_attention=with_attention,
                )
            for path in (rows or {}).values():
                path.unlink()
            yield files

    def opened(files: _Written) -> TrainingData:
        return TrainingData(
            version,
            target,
            DocumentEmbeddings(version, files.kinds),
            files.utility_scale,
            open_label_files(files.folder, files.ranges),
            files.absence,
            files.num_without_target,
        )

    return once_per_machine(written, opened)


@dataclass(frozen=True)
class _Written:
    """Label files, and what SQL says of all of them."""

    folder: Path
    ranges: Mapping[str, tuple[int, int]]
    kinds: tuple[Provenance, ...]
    utility_scale: float
    absence: Absence
    num_without_target: int


def _write_labels(
    connection: duckdb.DuckDBPyConnection,
    version: StoreVersion,
    target: Target,
    folder: Path,
    utility_scale: float | None,
    where: str,
    mix: Collection[Mix],
    *,
    with_attention: bool,
) -> _Written:
    if not where:  # earlier than the target, so that a mixture is what the error names
        read_provenance(connection, "stored_effects", version, where, mix)
    _choose_labels(connection, target, where)
    kinds = read_provenance(connection, "chosen_labels", version, where, mix)
    scale = utility_scale or _fit_scale(fetch_rows(connection, _SCALE), version)
    ranges = write_label_files(connection, folder, with_attention=with_attention)
    absences = fetch_rows(connection, _ABSENCES)
    without = fetch_rows(connection, _WITHOUT_TARGET)[0]["num"]
    absence: Absence = absences[0]["absence"] if absences else "off"
    return _Written(folder, ranges, kinds, scale, absence, int(without))


_ABSENCES = """
    select absence
    from chosen_maps
    where absence <> 'off' and map_number in (select map_number from chosen_snapshots)
    order by absence
    limit 1
"""

_SCALE = f"with labels as (from chosen_labels)\nfrom (\n{read_sql('utility_scale.sql')}\n)"
"""Scale of the labels that a trainer sees."""

_WITHOUT_TARGET = """
    select count(*) as num
    from (select snapshot_id from chosen_labels group by snapshot_id having count(utility) = 0)
"""


def _choose_labels(connection: duckdb.DuckDBPyConnection, target: Target, where: str) -> None:
    """Creates the table `chosen_labels`: the target's rows that satisfy `where`.

    A target may come from a file or with a checkpoint, so it has to be a single query.
    """
    if where:
        check_condition(where)
    query = plain_query(target.sql).text
    try:
        connection.execute(
            "create temp table target_rows as "
            f"select * replace (utility::double as utility) from (\n{query}\n)"
        )
        connection.execute("select trajectory_id, snapshot_id from target_rows limit 0")
    except duckdb.Error as error:
        raise InputError(f"the target {target.name!r} fails: {str(error).strip()}") from error
    try:
        condition = f"({where}\n)" if where else "true"
        connection.execute(f"create temp table chosen_labels as from target_rows where {condition}")
        connection.execute("drop table target_rows")
    except duckdb.Error as error:
        raise InputError(f"the condition {where!r} fails: {str(error).strip()}") from error


def _fit_scale(rows: Sequence[Mapping[str, Any]], version: StoreVersion) -> float:
    scale = rows[0]["scale"]
    if not scale:
        raise InputError(
            f"the training split of {version.location.uri} at version {version.version} has no spread of "
            "values to fit utility_scale on: collect more documents"
        )
    return float(scale)
