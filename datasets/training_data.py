"""What the trainer reads: snapshots with their targets at one version, without any base model.

Labels and targets come from SQL, arrays from Zarr; a snapshot's embeddings are gathered when its batch is
made (`batches.py`), so nothing is stored per snapshot that can be looked up.
"""

from collections.abc import Collection, Mapping, Sequence
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
from mctrace.datasets.arrays import DocumentPlace, open_arrays, read_array, read_document
from mctrace.datasets.location import Location
from mctrace.datasets.provenance import Mix, Provenance, refuse_mixture
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
    provenance: Provenance


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
    def embedding_tables(self) -> dict[tuple[str, str], Tensor]:
        """The base models' input embeddings [V, d], float32, by model hash and dtype."""
        rows = fetch_rows(connect(self.version), "from stored_embeddings")
        folders = {(row["model_hash"], row["dtype"]): row["arrays"] for row in rows}
        tables: dict[tuple[str, str], Tensor] = {}
        for snapshots in self.splits.values():
            for key in {(s.provenance.model_hash, s.provenance.dtype) for s in snapshots} - set(tables):
                if key not in folders:
                    raise InputError(f"{self._uri} lacks the embedding table of model {key[0][:8]}")
                table = read_array(open_arrays(self._location, folders[key]), "embedding_table")
                tables[key] = torch.from_numpy(table)
        widths = {table.shape[1] for table in tables.values()}
        if len(widths) > 1:
            raise InputError(
                f"the base models' embeddings have different widths ({', '.join(map(str, sorted(widths)))}): "
                "no LensNet reads both, train on one model"
            )
        return tables

    @property
    def embedding_dim(self) -> int:
        return int(next(iter(self.embedding_tables.values())).shape[1])

    def tree_embeddings(self, snapshot: LabelledSnapshot) -> Sequence[Tensor]:
        """Embeddings per level [num_nodes, d] of the snapshot's document, tokens first."""
        provenance = snapshot.provenance
        table = self.embedding_tables[provenance.model_hash, provenance.dtype]
        place = self._places[snapshot.document_id, provenance]
        tokens, *gists = _document_arrays(self._location, place)
        return [table[torch.from_numpy(tokens.astype(np.int64))], *map(torch.from_numpy, gists)]

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
    def _places(self) -> dict[tuple[str, Provenance], DocumentPlace]:
        rows = fetch_rows(connect(self.version), "from stored_documents")
        return {(row["document_id"], Provenance.of(row)): DocumentPlace.of(row) for row in rows}


@lru_cache(maxsize=1024)
def _document_arrays(location: Location, place: DocumentPlace) -> list[npt.NDArray[Any]]:
    """A document's tokens and its gists per level; the most recent documents stay in memory."""
    return read_document(location, place, *range(len(place.num_rows)))


def open_training_data(
    version: StoreVersion,
    target: str = "priced",
    utility_scale: float | None = None,
    mix: Collection[Mix] = (),
) -> TrainingData:
    """Reads labels and maps of `version` under `target`.

    `utility_scale` (nats per unit of score) is fitted on the training split unless given, as it must be when
    a checkpoint is judged. Raises InputError when there is nothing to learn from, or when labels differ in
    base model, GistNet or dtype and `mix` does not name that; those of different trees never mix.
    """
    version.refuse_damaged()
    connection = connect(version)
    kinds = [Provenance.of(row) for row in fetch_rows(connection, _PROVENANCE)]
    refuse_mixture(kinds, mix, f"{version.location.uri} at version {version.version}")
    scale = utility_scale or _fit_scale(fetch_rows(connection, read_sql("utility_scale.sql")), version)
    rows = _fetch_labels(connection, target)
    maps = {row["trajectory_id"]: row for row in fetch_rows(connection, _MAPS)}
    splits: dict[str, list[LabelledSnapshot]] = {split: [] for split in SPLITS}
    num_without_target = 0
    for row in rows:
        if row["trajectory_id"] not in maps:
            continue
        labels = tuple(_label(label) for label in row["labels"] if label["utility"] is not None)
        if not labels:
            num_without_target += 1
            continue
        trajectory = maps[row["trajectory_id"]]
        provenance = Provenance.of(trajectory)
        lod_map = _map_at(trajectory, row["cursor"], provenance.tree)
        splits[row["split"]].append(
            LabelledSnapshot(row["snapshot_id"], row["document_id"], lod_map, labels, provenance)
        )
    merge: Merge = "largest" if target == "literal" else "sum"
    return TrainingData(
        version,
        target,
        merge,
        Provenance.of_all(kinds),
        scale,
        {split: tuple(found) for split, found in splits.items()},
        num_without_target,
    )


_PROVENANCE = """
    select distinct model_hash, tokenizer_hash, gist_hash, dtype, block_size, max_level
    from stored_trajectories
    semi join stored_effects using (trajectory_id)
    order by all
"""

_MAPS = """
    select
        trajectory_id, start, levels, cursors[1] as first_cursor,
        model_hash, tokenizer_hash, gist_hash, dtype, block_size, max_level
    from stored_trajectories
    -- Around a damaged document, whose embeddings nobody has, its trajectories are left out too.
    semi join stored_documents using (document_id, model_hash, gist_hash, dtype, block_size, max_level)
"""

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
