"""Reading labels: snapshots of a version with their labels and targets, without a base model.

Labels and targets come from SQL, arrays from Zarr; `collate` gathers a snapshot's embeddings when it
assembles a batch, so that no snapshot keeps what can be looked up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Absence
from mctrace.datasets.batches.context_tensors import absence_of
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.stored_maps import StoredMap, read_maps, read_provenance
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.sql.sandbox import check_condition, plain_query
from mctrace.datasets.sql.target import Target
from mctrace.datasets.sql.target_merging import Merge
from mctrace.datasets.store.provenance import Mix, Provenance
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError, StoreError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Labels:
    """Measured actions of one snapshot as parallel arrays [A]; utilities and labels in nats per token."""

    is_expand: npt.NDArray[np.bool_]
    """True for an expand or an insert"""
    is_absence: npt.NDArray[np.bool_]
    """True for an insert or a drop"""
    entry_level: npt.NDArray[np.int64]
    node_level: npt.NDArray[np.int64]
    node_index: npt.NDArray[np.int64]
    utility: npt.NDArray[np.float64]
    delta_nll: npt.NDArray[np.float64]
    stderr: npt.NDArray[np.float64]
    """0 where it is unknown, at a horizon of one token"""
    inclusion_probability: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.utility)

    def num_entries(self, block_size: int) -> npt.NDArray[np.int64]:
        """Entries that each action replaces [A]: K of a collapse, all of a drop, else one."""
        dropped = block_size ** np.maximum(self.node_level - self.entry_level, 0)
        return np.where(self.is_expand, 1, np.where(self.is_absence, dropped, block_size))

    def positions(self, block_size: int) -> npt.NDArray[np.int64]:
        """Positions that each action adds or frees [A]."""
        absent = block_size ** np.maximum(self.node_level - self.entry_level, 0)
        return np.where(self.is_absence, absent, block_size - 1)


@dataclass(frozen=True)
class LabelledSnapshot:
    """Working context at one cursor with the labels measured on it."""

    snapshot_id: str
    document_id: str
    cursor: int
    start: int
    """first token shown; a derived dataset may show only the newest part of a map"""
    head: StoredMap
    labels: Labels

    @property
    def lod_map(self) -> LODMap:
        whole = self.head.at(self.cursor)
        return whole if self.start == whole.start else whole.starting_at(self.start)

    @property
    def attention_N(self) -> npt.NDArray[np.float32] | None:
        """Attention of the base model to each entry; None where it was not kept or not requested."""
        if self.head.attention_N is None:
            return None
        num_whole, num_shown = len(self.head.at(self.cursor).entries), len(self.lod_map.entries)
        return self.head.attention_N[num_whole - num_shown : num_whole]


@dataclass(frozen=True)
class TrainingData:
    """Labelled snapshots of a version under one target; see `open_training_data`."""

    version: StoreVersion
    target: Target
    arrays: DocumentEmbeddings
    utility_scale: float
    splits: Mapping[str, tuple[LabelledSnapshot, ...]]
    num_without_target: int

    @property
    def provenance(self) -> Provenance:
        return self.arrays.provenance

    @property
    def embedding_dim(self) -> int:
        return self.arrays.embedding_dim

    @cached_property
    def absence(self) -> Absence:
        """`tree.absence` of the labels; off where no trajectory's blocks may be absent."""
        return absence_of(found.head.tree for split in self.splits.values() for found in split)

    @property
    def merge(self) -> Merge:
        return self.target.merge

    def snapshots(self, split: str) -> tuple[LabelledSnapshot, ...]:
        """Snapshots of a split. Raises InputError when it is unknown or empty."""
        return of_split(self.splits, split, self.version, "labelled snapshot")


def of_split(
    splits: Mapping[str, tuple[Item, ...]], split: str, version: StoreVersion, what: str
) -> tuple[Item, ...]:
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
) -> TrainingData:
    """Reads labels and maps of `version` under `target`, for the rows that satisfy `where`.

    `where` is a SQL condition over the target's columns; it does not change what the target computes, such as
    prices. `utility_scale` (nats per unit of score) is fitted on the chosen rows of the training split unless
    given, as it must be to evaluate a checkpoint. Raises InputError when there is nothing to learn from, or
    when labels differ in base model, GistNet or dtype and `mix` does not name that; labels of different trees
    never mix.
    """
    version.refuse_damaged(hash_tables=True)
    target = Target.named(target) if isinstance(target, str) else target
    connection = connect(version)
    if not where:  # earlier than the target, so that a mixture is what the error names
        read_provenance(connection, "stored_effects", version, where, mix)
    _choose_labels(connection, target, where)
    kinds = read_provenance(connection, "chosen_labels", version, where, mix)
    scale = utility_scale or _fit_scale(fetch_rows(connection, _SCALE), version)
    maps = read_maps(connection, "chosen_labels", with_attention=with_attention)
    splits: dict[str, list[LabelledSnapshot]] = {split: [] for split in SPLITS}
    for row, labels in _snapshot_labels(connection):
        head = maps.get(row["trajectory_id"])
        if head is None:
            continue
        snapshot = LabelledSnapshot(
            row["snapshot_id"], row["document_id"], row["cursor"], row["start"], head, labels
        )
        splits[row["split"]].append(snapshot)
    return TrainingData(
        version,
        target,
        DocumentEmbeddings(version, kinds),
        scale,
        {split: tuple(found) for split, found in splits.items()},
        int(fetch_rows(connection, _WITHOUT_TARGET)[0]["num"]),
    )


_SCALE = f"with labels as (from chosen_labels)\nfrom (\n{read_sql('utility_scale.sql')}\n)"
"""Scale of the labels that a trainer sees."""

_WITHOUT_TARGET = """
    select count(*) as num
    from (select snapshot_id from chosen_labels group by snapshot_id having count(utility) = 0)
"""

_SNAPSHOTS = """
    select l.snapshot_id, l.trajectory_id, l.document_id, l.split, l.cursor, c.start, count(*) as num_labels
    from chosen_labels as l
    join snapshot_cursors as c using (snapshot_id)
    where l.utility is not null
    group by all
    order by snapshot_id
"""

_LABELS = """
    select
        action in ('expand', 'insert') as is_expand, action in ('insert', 'drop') as is_absence,
        entry_level, node_level, node_index, utility, delta_nll,
        coalesce(stderr, residual_stderr, 0) as stderr, inclusion_probability
    from chosen_labels
    left join estimator_errors using (run_id, action, node_level, estimator)
    where utility is not null
    order by snapshot_id, action desc, node_level, node_index
"""

_TYPES = {
    "is_expand": np.bool_,
    "is_absence": np.bool_,
    "entry_level": np.int64,
    "node_level": np.int64,
    "node_index": np.int64,
}


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
    except duckdb.Error as error:
        raise InputError(f"the condition {where!r} fails: {str(error).strip()}") from error


def _snapshot_labels(
    connection: duckdb.DuckDBPyConnection,
) -> list[tuple[dict[str, Any], Labels]]:
    """Each snapshot with its labels, which are slices of arrays shared by all snapshots."""
    snapshots = fetch_rows(connection, _SNAPSHOTS)
    try:
        table = connection.sql(_LABELS).to_arrow_table()
    except duckdb.Error as error:
        raise StoreError(f"{str(error).strip()}\n(mctrace verify finds damaged files)") from error
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.asarray(table[name].to_numpy(), dtype=_TYPES.get(name, np.float64))
        for name in table.column_names
    }
    ends = np.cumsum([row["num_labels"] for row in snapshots])
    return [
        (row, Labels(**{name: values[end - row["num_labels"] : end] for name, values in columns.items()}))
        for row, end in zip(snapshots, ends, strict=True)
    ]


def _fit_scale(rows: Sequence[Mapping[str, Any]], version: StoreVersion) -> float:
    scale = rows[0]["scale"]
    if not scale:
        raise InputError(
            f"the training split of {version.location.uri} at version {version.version} has no spread of "
            "values to fit utility_scale on: collect more documents"
        )
    return float(scale)
