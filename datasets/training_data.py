"""What the trainer reads: snapshots with their targets at one version, without any base model.

Labels and targets come from SQL, arrays from Zarr; a snapshot's embeddings are gathered when its batch is
made (`batches.py`), so nothing is stored per snapshot that can be looked up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.actions import Action
from mctrace.context.errors import InputError, StoreError
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.datasets.arrays import open_arrays, read_array
from mctrace.datasets.location import Location
from mctrace.datasets.queries import connect, fetch_rows, read_sql, target_sql
from mctrace.datasets.store import StoreVersion

Merge = Literal["sum", "largest"]
"""How an entry that can both expand and collapse gets one target: sum of both, or the larger in size."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ActionLabel:
    """One measured action: its target (nats per token), the raw label behind it and how it was sampled."""

    action: Action
    utility: float
    delta_nll: float
    stderr: float
    inclusion_probability: float


@dataclass(frozen=True)
class LabelledSnapshot:
    """A working context at one cursor with the labels measured on it."""

    snapshot_id: str
    document_id: str
    lod_map: LODMap
    labels: tuple[ActionLabel, ...]


@dataclass(frozen=True)
class Provenance:
    """What all labels of a training run must share."""

    model_hash: str
    tokenizer_hash: str
    gist_hash: str
    dtype: str
    block_size: int
    max_level: int

    @property
    def tree(self) -> TreeShape:
        return TreeShape(self.block_size, self.max_level)


@dataclass(frozen=True)
class TrainingData:
    """Every labelled snapshot of a version under one target; see `open_training_data`."""

    version: StoreVersion
    target: str
    merge: Merge
    provenance: Provenance
    utility_scale: float
    splits: Mapping[str, tuple[LabelledSnapshot, ...]]
    num_without_target: int

    @cached_property
    def embedding_table(self) -> Tensor:
        """The base model's input embeddings [V, d], float32."""
        rows = fetch_rows(
            connect(self.version),
            "select arrays from stored_embeddings where (model_hash, dtype) = (?, ?)",
            self.provenance.model_hash,
            self.provenance.dtype,
        )
        if not rows:
            raise InputError(
                f"{self._uri} lacks the embedding table of model {self.provenance.model_hash[:8]}"
            )
        return torch.from_numpy(read_array(open_arrays(self._location, rows[0]["arrays"]), "embedding_table"))

    @property
    def embedding_dim(self) -> int:
        return int(self.embedding_table.shape[1])

    @property
    def num_levels(self) -> int:
        return self.provenance.max_level + 1

    def tree_embeddings(self, document_id: str) -> Sequence[Tensor]:
        """Embeddings per level [num_nodes, d] of one document, tokens first."""
        folder = self._array_folders[document_id]
        tokens, *gists = _document_arrays(self._location, folder, self.num_levels)
        return [
            self.embedding_table[torch.from_numpy(tokens.astype(np.int64))],
            *map(torch.from_numpy, gists),
        ]

    def snapshots(self, split: str) -> tuple[LabelledSnapshot, ...]:
        """The split's snapshots. Raises InputError when it is unknown or empty."""
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
        found = self.splits.get(split, ())
        if not found:
            raise InputError(
                f"the {split} split of {self._uri} at version {self.version.version} has no labelled "
                "snapshot: collect more documents"
            )
        return found

    @property
    def _location(self) -> Location:
        return self.version.location

    @property
    def _uri(self) -> str:
        return self._location.uri

    @cached_property
    def _array_folders(self) -> dict[str, str]:
        rows = fetch_rows(
            connect(self.version),
            "select document_id, arrays from stored_documents "
            "where (model_hash, gist_hash, dtype, block_size, max_level) = (?, ?, ?, ?, ?)",
            self.provenance.model_hash,
            self.provenance.gist_hash,
            self.provenance.dtype,
            self.provenance.block_size,
            self.provenance.max_level,
        )
        return {row["document_id"]: row["arrays"] for row in rows}


@lru_cache(maxsize=1024)
def _document_arrays(location: Location, folder: str, num_levels: int) -> list[npt.NDArray[Any]]:
    """A document's tokens and its gists per level; the most recent documents stay in memory."""
    group = open_arrays(location, folder)
    names = ["tokens", *(f"gists/lod{level}" for level in range(1, num_levels))]
    return [read_array(group, name) for name in names]


def open_training_data(
    version: StoreVersion, target: str = "priced", utility_scale: float | None = None
) -> TrainingData:
    """Reads labels and maps of `version` under `target`.

    `utility_scale` (nats per unit of score) is fitted on the training split unless given, as it must be when
    a checkpoint is judged. Raises InputError when there is nothing to learn from, or labels of different base
    models, GistNets or trees are mixed.
    """
    version.refuse_damaged()
    connection = connect(version)
    provenance = _single_provenance(fetch_rows(connection, _PROVENANCE), version)
    scale = utility_scale or _fit_scale(fetch_rows(connection, read_sql("utility_scale.sql")), version)
    rows = _fetch_labels(connection, target)
    maps = {row["trajectory_id"]: row for row in fetch_rows(connection, _MAPS)}
    starts = {row["snapshot_id"]: row["start"] for row in fetch_rows(connection, _STARTS)}
    splits: dict[str, list[LabelledSnapshot]] = {split: [] for split in SPLITS}
    num_without_target = 0
    for row in rows:
        labels = tuple(_label(label) for label in row["labels"] if label["utility"] is not None)
        if not labels:
            num_without_target += 1
            continue
        lod_map = _map_at(maps[row["trajectory_id"]], row["cursor"], provenance.tree)
        if lod_map.start != (start := starts[row["snapshot_id"]]):
            lod_map = lod_map.starting_at(start)
        splits[row["split"]].append(LabelledSnapshot(row["snapshot_id"], row["document_id"], lod_map, labels))
    merge: Merge = "largest" if target == "literal" else "sum"
    return TrainingData(
        version,
        target,
        merge,
        provenance,
        scale,
        {split: tuple(found) for split, found in splits.items()},
        num_without_target,
    )


_PROVENANCE = """
    select distinct t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.block_size, t.max_level
    from stored_trajectories as t
    semi join stored_effects using (trajectory_id)
"""

_MAPS = "select trajectory_id, start, levels, cursors[1] as first_cursor from stored_trajectories"

_STARTS = "select snapshot_id, start from snapshot_cursors"

_LABELS = """
    select
        snapshot_id, trajectory_id, document_id, split, cursor,
        list({{
            'action': action, 'node_level': node_level, 'node_index': node_index, 'utility': utility,
            'delta_nll': delta_nll, 'stderr': stderr, 'inclusion_probability': inclusion_probability
        }} order by action desc, node_level, node_index) as labels
    from (
        {target}
    )
    group by all
    order by snapshot_id
"""


def _fetch_labels(connection: duckdb.DuckDBPyConnection, target: str) -> list[dict[str, Any]]:
    sql = target_sql(target)
    try:
        return fetch_rows(connection, _LABELS.format(target=sql))
    except StoreError as error:
        raise InputError(f"the target {target!r} fails: {error}") from error


def _single_provenance(rows: Sequence[Mapping[str, Any]], version: StoreVersion) -> Provenance:
    uri = version.location.uri
    if not rows:
        raise InputError(f"{uri} at version {version.version} has no labels: run 'mctrace collect'")
    if len(rows) > 1:
        found = "; ".join(
            f"model {r['model_hash'][:8]} gists {r['gist_hash'][:8]} {r['dtype']} K={r['block_size']}"
            for r in rows
        )
        raise InputError(
            f"{uri} at version {version.version} mixes labels that do not compare ({found}): "
            "train on a store, or a version, of one kind"
        )
    return Provenance(**rows[0])


def _fit_scale(rows: Sequence[Mapping[str, Any]], version: StoreVersion) -> float:
    scale = rows[0]["scale"]
    if not scale:
        raise InputError(
            f"the training split of {version.location.uri} at version {version.version} has no spread of "
            "values to fit utility_scale on: collect more documents"
        )
    return float(scale)


def _label(row: Mapping[str, Any]) -> ActionLabel:
    action = Action(row["action"], Node(row["node_level"], row["node_index"]))
    return ActionLabel(action, row["utility"], row["delta_nll"], row["stderr"], row["inclusion_probability"])


def _map_at(row: Mapping[str, Any], cursor: int, tree: TreeShape) -> LODMap:
    levels = np.asarray(row["levels"], dtype=np.uint8)
    return LODMap(tree, row["start"], row["first_cursor"], levels).extended(cursor)
