"""Labels of a training run on disk: Arrow files that every process of a machine maps into memory.

A snapshot is read when a batch asks for it. 44 bytes a label (docs/training.md#many-labels).

    labels.arrow      one row per label, the labels of a snapshot together
    snapshots.arrow   one row per snapshot, by split and snapshot_id
    maps.arrow        one row per trajectory
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.context.actions import ActionArrays
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.arrow_files import MappedMaps, create_maps, damaged, mapped, write_arrow_files
from mctrace.datasets.batches.stored_maps import StoredMap
from mctrace.datasets.sql.connection import fetch_rows


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

    def positions(self, tree: TreeShape) -> npt.NDArray[np.int64]:
        """Positions that each action adds or frees [A]."""
        absent_level = np.where(self.is_absence, self.entry_level, -1)
        actions = ActionArrays(self.is_expand, self.node_level, self.node_index, absent_level)
        return actions.positions_A(tree)


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


class Snapshots(Sequence[LabelledSnapshot]):
    """Snapshots of one split, each read from disk when it is asked for."""

    def __init__(self, tables: "_LabelTables", rows: range) -> None:
        self._tables, self._rows = tables, rows

    def __len__(self) -> int:
        return len(self._rows)

    # Not overloaded: typing keeps overloads until exit, and with them this module's DuckDB, which then
    # complains of leaks.
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Snapshots(self._tables, self._rows[at])
        return self._tables.snapshot(self._rows[at])

    def __iter__(self) -> Iterator[LabelledSnapshot]:
        return map(self._tables.snapshot, self._rows)


class _LabelTables:
    """The three files, mapped."""

    def __init__(self, folder: Path) -> None:
        self._labels, self._snapshots = mapped(folder, "labels"), mapped(folder, "snapshots")
        self._maps = MappedMaps(folder)

    def snapshot(self, number: int) -> LabelledSnapshot:
        (row,) = self._snapshots.slice(number, 1).to_pylist()
        found = self._labels.slice(row["first_label"], row["num_labels"])
        labels = Labels(
            **{name: np.array(found[name], dtype=_TYPES.get(name, np.float64)) for name in _NAMES}
        )
        head = self._maps.map(row["map_number"])
        return LabelledSnapshot(
            row["snapshot_id"], row["document_id"], row["cursor"], row["start"], head, labels
        )


def write_label_files(
    connection: duckdb.DuckDBPyConnection, folder: Path, *, with_attention: bool = False
) -> dict[str, tuple[int, int]]:
    """Writes the rows of the table `chosen_labels` that have a utility, and the maps that they name.

    Returns the first snapshot of each split and the one after its last. Snapshots whose document is missing,
    as where a damaged one is skipped, are left out. Raises StoreError when a file cannot be read or written.
    """
    try:
        create_maps(connection, "chosen_labels", with_attention=with_attention)
        connection.execute(_SNAPSHOTS)
    except duckdb.Error as error:
        raise damaged(error) from error
    queries = {"snapshots": "from chosen_snapshots order by number", "labels": _LABELS}
    write_arrow_files(connection, folder, queries, "labels")
    ranges = (
        "select split, min(number) as first, max(number) + 1 as after from chosen_snapshots group by split"
    )
    return {row["split"]: (row["first"], row["after"]) for row in fetch_rows(connection, ranges)}


def open_label_files(folder: Path, ranges: Mapping[str, tuple[int, int]]) -> dict[str, Snapshots]:
    """Snapshots by split. The files may be removed once they are open."""
    tables = _LabelTables(folder)
    return {split: Snapshots(tables, range(*rows)) for split, rows in ranges.items()}


_NAMES = tuple(Labels.__dataclass_fields__)
_TYPES = {
    "is_expand": np.bool_,
    "is_absence": np.bool_,
    "entry_level": np.int64,
    "node_level": np.int64,
    "node_index": np.int64,
}

_SNAPSHOTS = """
    create temp table chosen_snapshots as
    with counted as (
        select l.snapshot_id, m.map_number, l.document_id, l.split, l.cursor, c.start, count(*) as num_labels
        from chosen_labels as l
        join snapshot_cursors as c using (snapshot_id)
        join chosen_maps as m on m.trajectory_id = l.trajectory_id
        where l.utility is not null
        group by all
    )
    select
        *,
        row_number() over in_order - 1 as number,
        (sum(num_labels) over in_order - num_labels)::bigint as first_label
    from counted
    window in_order as (order by split, snapshot_id rows unbounded preceding)
"""

_LABELS = """
    select
        (action in ('expand', 'insert'))::utinyint as is_expand,
        (action in ('insert', 'drop'))::utinyint as is_absence,
        entry_level::utinyint as entry_level, node_level::utinyint as node_level,
        node_index::bigint as node_index,
        utility, delta_nll, coalesce(stderr, residual_stderr, 0)::double as stderr, inclusion_probability
    from chosen_labels
    left join estimator_errors using (run_id, action, node_level, estimator)
    where utility is not null and trajectory_id in (select trajectory_id from chosen_maps)
    order by split, snapshot_id, action desc, node_level, node_index
"""
