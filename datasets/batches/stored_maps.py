"""LOD maps as a store holds them, and the provenance of the trajectories that a table names.

Shared by the readers of labels and of pairs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Absence, TreeShape
from mctrace.datasets.sql.connection import fetch_rows
from mctrace.datasets.store.provenance import Mix, Provenance, refuse_mixture
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError


@dataclass(frozen=True)
class StoredMap:
    """Head map of a trajectory; snapshots extend it when needed, since a map's entries are large."""

    provenance: Provenance
    absence: Absence
    start: int
    first_cursor: int
    levels: npt.NDArray[np.uint8]
    protected_tail: int
    """tokens before each cursor that never collapse"""
    attention_N: npt.NDArray[np.float32] | None = None
    """attention of the base model to each entry; None where it was not kept or not requested"""

    @property
    def tree(self) -> TreeShape:
        return replace(self.provenance.tree, absence=self.absence)

    def at(self, cursor: int) -> LODMap:
        return LODMap(self.tree, self.start, self.first_cursor, self.levels).extended(cursor)


def maps_query(table: str, *, with_attention: bool = False) -> str:
    """Query of the trajectories that `table` names, as `stored_map` reads them.

    Leaves out trajectories whose document is missing, as where a damaged one is skipped: they have no
    embeddings.
    """
    return f"""
        select t.trajectory_id, t.start, t.levels, t.cursors[1] as first_cursor, t.protected_tail,
               t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.block_size, t.max_level,
               t.semantics, t.gist_positions, coalesce(t.absence, 'off') as absence,
               {"a.attention_mass" if with_attention else "null::float[]"} as attention_mass
        from stored_trajectories as t
        semi join {table} using (trajectory_id)
        semi join stored_documents using (document_id, model_hash, gist_hash, dtype, block_size, max_level)
        {"left join stored_attention as a using (trajectory_id)" if with_attention else ""}
    """


def stored_map(row: Mapping[str, Any]) -> StoredMap:
    """The map of a row of `maps_query`."""
    attention = row["attention_mass"]
    return StoredMap(
        Provenance.of(row),
        row["absence"],
        row["start"],
        row["first_cursor"],
        np.asarray(row["levels"], dtype=np.uint8),
        row["protected_tail"],
        None if attention is None else np.asarray(attention, dtype=np.float32),
    )


def read_provenance(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    version: StoreVersion,
    where: str,
    mix: Collection[Mix],
) -> tuple[Provenance, ...]:
    """Provenances of the trajectories that `table` names.

    Raises InputError when there is none, and for several that `mix` does not allow.
    """
    rows = fetch_rows(
        connection,
        f"""
        select distinct
            t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.block_size, t.max_level,
            coalesce(t.semantics, 're_encoded') as semantics, coalesce(t.gist_positions, 1) as gist_positions
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
