"""Trajectories from outside: LOD maps that somebody's live runtime logged, validated hard on entry.

One row of the Parquet file is one trajectory (FORMAT.md, "Trace files"): the document's token ids, or the id
of a document the store has, and the map the runtime showed. A row that is not exactly right is refused with
its number and the reason, and then nothing of the file is taken.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.collect.config import CollectConfig, CorpusConfig
from mctrace.collect.documents import Document, SplitAssigner, document_id
from mctrace.collect.plan import plan_trajectory
from mctrace.collect.planned import PlannedTrajectory, Provenance
from mctrace.collect.run_plan import RunPlan, known_placements
from mctrace.context.errors import InputError
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.datasets.arrays import open_arrays, read_array
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import Store

TRACES = pa.schema(
    [
        ("source", pa.string()),
        ("tokenizer_hash", pa.string()),
        ("document_id", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("block_size", pa.int32()),
        ("start", pa.int64()),
        ("levels", pa.list_(pa.uint8())),
        ("cursors", pa.list_(pa.int64())),
    ]
)


def plan_traces(
    path: Path, store: Store | None, config: CollectConfig, corpus: CorpusConfig, provenance: Provenance
) -> RunPlan:
    """The plan of a trace file. Raises InputError for a file or row that cannot be taken."""
    known = _KnownDocuments(store)
    assigner = SplitAssigner(corpus, known.placements)
    documents: dict[str, Document] = {}
    planned: dict[str, PlannedTrajectory] = {}
    for number, row in enumerate(_read_rows(path)):
        try:
            _refuse_nulls(row)
            document = _document_of(row, provenance, known, assigner)
            trajectory = _trajectory_of(row, document, config, provenance)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path} row {number}: {error}; nothing of the file was taken") from error
        documents[document.document_id] = document
        for one in plan_trajectory(document.document_id, "import", trajectory, config, provenance):
            planned[one.part_id] = one
    if not planned:
        raise InputError(f"{path} has no rows")
    return RunPlan(documents, tuple(planned.values()), provenance, num_too_short=0)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"trace file {path} does not exist") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"trace file {path} is not readable Parquet: {error}") from error
    missing = [name for name in TRACES.names if name not in table.schema.names]
    if missing:
        raise InputError(f"trace file {path} lacks the columns {', '.join(missing)} (see datasets/FORMAT.md)")
    wrong = [f.name for f in TRACES if not _is_like(table.schema.field(f.name).type, f.type)]
    if wrong:
        raise InputError(
            f"trace file {path}: the columns {', '.join(wrong)} have another type than documented"
        )
    rows: list[dict[str, Any]] = table.select(TRACES.names).to_pylist()
    return rows


def _is_like(found: pa.DataType, documented: pa.DataType) -> bool:
    """Integers of any width pass: each value is held against the documented range later."""
    if pa.types.is_list(documented):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _is_like(found.value_type, documented.value_type)
    if pa.types.is_integer(documented):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_null(found))


class _KnownDocuments:
    """Documents the store already holds, read when a row names one."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        rows = fetch_rows(connect(store.at()), "from stored_documents") if store else []
        self._rows = {row["document_id"]: row for row in rows}
        self.placements = known_placements(store)

    def get(self, identity: str, tokenizer_hash: str) -> Document:
        row = self._rows.get(identity)
        if row is None or self._store is None:
            raise ValueError(f"document_id {identity!r} is not in the store and the row has no tokens")
        if row["tokenizer_hash"] != tokenizer_hash:
            raise ValueError(f"document_id {identity!r} is of another tokenizer, {row['tokenizer_hash']!r}")
        tokens = read_array(open_arrays(self._store.location, row["arrays"]), "tokens")
        return Document(identity, row["source"], tokens, row["tokenizer_hash"], self.placements[identity])


def _refuse_nulls(row: Mapping[str, Any]) -> None:
    for name in ("start", "levels"):
        if row[name] is None:
            raise ValueError(f"{name} is null")
    for name in ("tokens", "levels", "cursors"):
        if row[name] is not None and None in row[name]:
            raise ValueError(f"{name} holds a null")


def _document_of(
    row: Mapping[str, Any], provenance: Provenance, known: _KnownDocuments, assigner: SplitAssigner
) -> Document:
    if row["tokenizer_hash"] != provenance.tokenizer_hash:
        raise ValueError(
            f"tokenizer_hash {row['tokenizer_hash']!r} is not the base model's, {provenance.tokenizer_hash!r}"
        )
    if row["tokens"] is None:
        return known.get(row["document_id"], provenance.tokenizer_hash)
    tokens: npt.NDArray[np.int32] = np.asarray(row["tokens"], dtype=np.int32)
    if len(tokens) == 0 or tokens.min() < 0:
        raise ValueError("tokens must be non-negative token ids")
    identity = document_id(tokens, provenance.tokenizer_hash)
    if row["document_id"] not in (None, identity):
        raise ValueError(f"document_id {row['document_id']!r} does not match its tokens ({identity})")
    placement = assigner.place(identity, tokens)
    return Document(identity, str(row["source"]), tokens, provenance.tokenizer_hash, placement)


def _trajectory_of(
    row: Mapping[str, Any], document: Document, config: CollectConfig, provenance: Provenance
) -> Trajectory:
    if row["block_size"] != provenance.tree.block_size:
        raise ValueError(
            f"block_size is {row['block_size']}, tree.block_size is {provenance.tree.block_size}"
        )
    if not row["cursors"]:
        raise ValueError("cursors is empty")
    levels = np.asarray(row["levels"], dtype=np.uint8)
    head = LODMap(provenance.tree, row["start"], row["cursors"][0], levels)
    trajectory = Trajectory(head, tuple(row["cursors"]), config.horizon)
    if trajectory.end > document.num_tokens:
        raise ValueError(
            f"the last cursor {trajectory.last_cursor} and a horizon of {config.horizon} reach beyond the "
            f"document's {document.num_tokens} tokens"
        )
    return trajectory
