"""What the trainer reads: snapshots with their targets at one version, without any base model.

Labels and targets come from SQL, arrays from Zarr; a snapshot's embeddings are gathered when its batch is
made (`batches.py`), so nothing is stored per snapshot that can be looked up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.document_arrays import DocumentArrays
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.sql.sandbox import check_condition, plain_query
from mctrace.datasets.sql.target import Target
from mctrace.datasets.sql.target_merging import Merge
from mctrace.datasets.store.provenance import Mix, Provenance, refuse_mixture
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError, StoreError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Labels:
    """The measured actions of one snapshot as parallel arrays [A]; utilities and labels in nats per token."""

    is_expand: npt.NDArray[np.bool_]
    node_level: npt.NDArray[np.int64]
    node_index: npt.NDArray[np.int64]
    utility: npt.NDArray[np.float64]
    delta_nll: npt.NDArray[np.float64]
    stderr: npt.NDArray[np.float64]
    """0 where it is unknown, at a horizon of one token"""
    inclusion_probability: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.utility)


@dataclass(frozen=True)
class StoredMap:
    """A trajectory's head map; a snapshot's own is made from it when needed, since its entries are large."""

    provenance: Provenance
    start: int
    first_cursor: int
    levels: npt.NDArray[np.uint8]
    attention_N: npt.NDArray[np.float32] | None = None
    """the base model's attention to each entry, where it was kept and asked for"""

    @property
    def tree(self) -> TreeShape:
        return self.provenance.tree

    def at(self, cursor: int) -> LODMap:
        return LODMap(self.tree, self.start, self.first_cursor, self.levels).extended(cursor)


@dataclass(frozen=True)
class LabelledSnapshot:
    """A working context at one cursor with the labels measured on it."""

    snapshot_id: str
    document_id: str
    cursor: int
    start: int
    """the first token it shows; a derived dataset may show only the newest part of a map"""
    head: StoredMap
    labels: Labels

    @property
    def lod_map(self) -> LODMap:
        whole = self.head.at(self.cursor)
        return whole if self.start == whole.start else whole.starting_at(self.start)

    @property
    def attention_N(self) -> npt.NDArray[np.float32] | None:
        """The base model's attention to each of its entries, where it was kept and asked for."""
        if self.head.attention_N is None:
            return None
        num_whole, num_shown = len(self.head.at(self.cursor).entries), len(self.lod_map.entries)
        return self.head.attention_N[num_whole - num_shown : num_whole]


@dataclass(frozen=True)
class TrainingData:
    """Every labelled snapshot of a version under one target; see `open_training_data`."""

    version: StoreVersion
    target: Target
    arrays: DocumentArrays
    utility_scale: float
    splits: Mapping[str, tuple[LabelledSnapshot, ...]]
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

    def snapshots(self, split: str) -> tuple[LabelledSnapshot, ...]:
        """The split's snapshots. Raises InputError when it is unknown or empty."""
        return of_split(self.splits, split, self.version, "labelled snapshot")


def of_split(
    splits: Mapping[str, tuple[Item, ...]], split: str, version: StoreVersion, what: str
) -> tuple[Item, ...]:
    """One split's items; raises InputError when there is no such split, or nothing in it."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    found = splits.get(split, ())
    if not found:
        raise InputError(
            f"the {split} split of {version.location.uri} at version {version.version} has no {what}: "
            "collect more documents"
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
    """Reads labels and maps of `version` under `target`, of those rows for which `where` holds.

    `where` is a SQL condition over the target's columns; prices and the like are the target's own and know
    nothing of it, while `utility_scale` (nats per unit of score) is fitted on the chosen rows of the training
    split unless given, as it must be when a checkpoint is judged. Raises InputError when there is nothing to
    learn from, or when labels differ in base model, GistNet or dtype and `mix` does not name that; those of
    different trees never mix.
    """
    version.refuse_damaged(hash_tables=True)
    target = Target.named(target) if isinstance(target, str) else target
    connection = connect(version)
    if not where:  # a mixture is a plainer word than whatever a target makes of it
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
        DocumentArrays(version, kinds),
        scale,
        {split: tuple(found) for split, found in splits.items()},
        int(fetch_rows(connection, _WITHOUT_TARGET)[0]["num"]),
    )


_SCALE = "with labels as (from chosen_labels)\n" + read_sql("utility_scale.sql")
"""The scale is that of the labels a trainer sees."""

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
        action = 'expand' as is_expand, node_level, node_index, utility, delta_nll,
        coalesce(stderr, 0) as stderr, inclusion_probability
    from chosen_labels
    where utility is not null
    order by snapshot_id, action desc, node_level, node_index
"""

_TYPES = {"is_expand": np.bool_, "node_level": np.int64, "node_index": np.int64}


def _choose_labels(connection: duckdb.DuckDBPyConnection, target: Target, where: str) -> None:
    """Makes the table `chosen_labels`: the target's rows for which `where` holds.

    A target may come from a file or with a checkpoint, so it has to be one query and nothing besides.
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
    """Each snapshot with its labels, which are slices of arrays that hold those of all."""
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


def read_maps(
    connection: duckdb.DuckDBPyConnection, table: str, *, with_attention: bool = False
) -> dict[str, StoredMap]:
    """The head maps, by trajectory id, of those trajectories that `table` names and whose document is there:
    around a damaged document, whose embeddings nobody has, its trajectories are left out too."""
    rows = fetch_rows(
        connection,
        f"""
        select t.trajectory_id, t.start, t.levels, t.cursors[1] as first_cursor,
               t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.block_size, t.max_level,
               {"a.attention_mass" if with_attention else "null"} as attention_mass
        from stored_trajectories as t
        semi join {table} using (trajectory_id)
        semi join stored_documents using (document_id, model_hash, gist_hash, dtype, block_size, max_level)
        {"left join stored_attention as a using (trajectory_id)" if with_attention else ""}
        """,
    )
    return {
        row["trajectory_id"]: StoredMap(
            Provenance.of(row),
            row["start"],
            row["first_cursor"],
            np.asarray(row["levels"], dtype=np.uint8),
            None if row["attention_mass"] is None else np.asarray(row["attention_mass"], dtype=np.float32),
        )
        for row in rows
    }


def read_provenance(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    version: StoreVersion,
    where: str,
    mix: Collection[Mix],
) -> tuple[Provenance, ...]:
    """What the trajectories that `table` names depend on; raises InputError for nothing, and for several
    kinds that `mix` does not name."""
    rows = fetch_rows(
        connection,
        f"""
        select distinct t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.block_size, t.max_level
        from stored_trajectories as t
        semi join {table} using (trajectory_id)
        order by all
        """,
    )
    place = f"{version.location.uri} at version {version.version}"
    if not rows and where:
        raise InputError(f"no label of {place} meets the condition {where!r}")
    kinds = tuple(Provenance.of(row) for row in rows)
    refuse_mixture(kinds, mix, place)
    return kinds


def _fit_scale(rows: Sequence[Mapping[str, Any]], version: StoreVersion) -> float:
    scale = rows[0]["scale"]
    if not scale:
        raise InputError(
            f"the training split of {version.location.uri} at version {version.version} has no spread of "
            "values to fit utility_scale on: collect more documents"
        )
    return float(scale)
