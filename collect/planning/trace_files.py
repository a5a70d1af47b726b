"""Import of trace files: LOD maps logged by a live runtime, strictly validated.

One row of the Parquet file is one trajectory (FORMAT.md, "Trace files"): the document's token ids, or the id
of a document the store has, and the map the runtime showed. A row that is not exactly right is left out with
its number and the reason; the others are taken.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CollectConfig, CorpusConfig
from mctrace.collect.corpus.documents import Document, document_id
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.split_assigner import Placement, SplitAssigner
from mctrace.collect.planning.document_plan import plan_trajectory
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.work_units import RuntimeLog, WorkUnit
from mctrace.context.actions import Action, ActionKind
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import Store
from mctrace.datasets.store.zarr_arrays import ArrayFolder, DocumentPlace, read_document
from mctrace.errors import InputError, one_line

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


OPTIONAL = pa.schema(
    [field for field in TABLES["trajectories"] if field.name in ("logged_at", "actions_taken")]
)
"""Columns that a trace file may have beside those."""


@dataclass(frozen=True)
class RejectedRow:
    """Rejected row of a trace file. Rows count from 0."""

    row: int
    source: str | None
    reason: str


@dataclass(frozen=True)
class TracePlan:
    """Plan of a trace file, and its rejected rows."""

    plan: RunPlan
    num_rows: int
    rejected: tuple[RejectedRow, ...]

    def write_rejected(self, path: Path) -> None:
        """One JSON object a line for every rejected row. Raises InputError when `path` cannot be written."""
        lines = [json.dumps(asdict(rejected), ensure_ascii=False) + "\n" for rejected in self.rejected]
        try:
            path.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


def plan_traces(
    path: Path,
    store: Store | None,
    config: CollectConfig,
    corpus: CorpusConfig,
    provenance: Provenance,
    source: ModelSource | None = None,
) -> TracePlan:
    """The plan of a trace file; with `source`, rows that its model cannot run are rejected as well.

    Raises InputError for a file that cannot be read at all.
    """
    known = _KnownDocuments(store)
    assigner = SplitAssigner(corpus, known.placements)
    documents: dict[str, Document] = {}
    planned: dict[str, WorkUnit] = {}
    rejected: list[RejectedRow] = []
    table = _read_table(path)
    if not len(table):
        raise InputError(f"{path} has no rows")
    for number, row in enumerate(_rows(table)):
        try:
            found = _tokens_of(row, provenance, known)
            trajectory = _trajectory_of(row, len(found.tokens), config, provenance)
            log = _log_of(row, trajectory)
            if source:
                _refuse_unfit(found.tokens, trajectory, source)
        except (ValueError, TypeError, OverflowError) as error:
            rejected.append(RejectedRow(number, row["source"], str(error)))
            continue
        # Only now: a rejected row's document must not decide anybody's split.
        placement = found.placement or assigner.place(found.document_id, found.tokens)
        if placement is None:
            reason = "the document is a near-duplicate of documents in two splits"
            rejected.append(RejectedRow(number, row["source"], reason))
            continue
        document = Document(
            found.document_id, found.source, found.tokens, provenance.tokenizer_hash, placement
        )
        documents.setdefault(document.document_id, document)
        for one in plan_trajectory(document, "import", trajectory, config, provenance, log):
            planned[one.part_id] = one
    plan = RunPlan(documents, tuple(planned.values()), provenance)
    return TracePlan(plan, len(table), tuple(rejected))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """One by one: as Python's objects tokens take many times their bytes."""
    for batch in table.to_batches(max_chunksize=1):
        yield from batch.to_pylist()


def _read_table(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)  # text that is no UTF-8 would only show when it is used
    except FileNotFoundError:
        raise InputError(f"trace file {path} does not exist") from None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"trace file {path} is not readable Parquet: {one_line(error)}") from error
    known = [*TRACES, *(field for field in OPTIONAL if field.name in table.schema.names)]
    names = [field.name for field in known]
    twice = [name for name in names if table.schema.names.count(name) > 1]
    if twice:
        raise InputError(f"trace file {path} has the columns {', '.join(twice)} more than once")
    missing = [name for name in TRACES.names if name not in table.schema.names]
    if missing:
        raise InputError(f"trace file {path} lacks the columns {', '.join(missing)} (see datasets/FORMAT.md)")
    wrong = [f.name for f in known if not _is_like(table.schema.field(f.name).type, f.type)]
    if wrong:
        raise InputError(
            f"trace file {path}: the columns {', '.join(wrong)} have another type than documented"
        )
    return table.select(names)


def _is_like(found: pa.DataType, documented: pa.DataType) -> bool:
    """Integers of any width pass: each value is held against the documented range later."""
    if pa.types.is_list(documented):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _is_like(found.value_type, documented.value_type)
    if pa.types.is_struct(documented):
        if not pa.types.is_struct(found) or {f.name for f in found} != {f.name for f in documented}:
            return False
        return all(_is_like(found.field(f.name).type, f.type) for f in documented)
    if pa.types.is_timestamp(documented):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    if pa.types.is_integer(documented):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_null(found))


@dataclass(frozen=True)
class _Found:
    """The document a row speaks of; `placement` is None for one the store does not have."""

    document_id: str
    source: str
    tokens: npt.NDArray[np.int32]
    placement: Placement | None = None


class _KnownDocuments:
    """Documents the store already holds, read when a row names one."""

    def __init__(self, store: Store | None) -> None:
        self._version = store.at() if store else None
        rows = fetch_rows(connect(self._version), "from stored_documents") if self._version else []
        self._rows = {row["document_id"]: row for row in rows}
        self.placements = known_placements(store)

    def get(self, identity: str, tokenizer_hash: str) -> "_Found":
        row = self._rows.get(identity)
        if row is None or self._version is None:
            raise ValueError(f"document_id {identity!r} is not in the store and the row has no tokens")
        if row["tokenizer_hash"] != tokenizer_hash:
            raise ValueError(f"document_id {identity!r} is of another tokenizer, {row['tokenizer_hash']!r}")
        place = DocumentPlace.of(row)
        (tokens,) = read_document(ArrayFolder.of(self._version, place.folder), place, 0)
        return _Found(identity, row["source"], tokens, self.placements[identity])


def _refuse_nulls(row: Mapping[str, Any]) -> None:
    for name in ("start", "levels"):
        if row[name] is None:
            raise ValueError(f"{name} is null")
    for name in ("tokens", "levels", "cursors"):
        if row[name] is not None and None in row[name]:
            raise ValueError(f"{name} holds a null")


def _tokens_of(row: Mapping[str, Any], provenance: Provenance, known: _KnownDocuments) -> _Found:
    _refuse_nulls(row)
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
    return _Found(identity, str(row["source"]), tokens)


def _trajectory_of(
    row: Mapping[str, Any], num_tokens: int, config: CollectConfig, provenance: Provenance
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
    if trajectory.end > num_tokens:
        raise ValueError(
            f"the last cursor {trajectory.last_cursor} and a horizon of {config.horizon} reach beyond the "
            f"document's {num_tokens} tokens"
        )
    return trajectory


def _log_of(row: Mapping[str, Any], trajectory: Trajectory) -> RuntimeLog:
    """What the runtime noted. Raises ValueError for an action that names no node of the window."""
    taken = row.get("actions_taken")
    if taken is None:
        return RuntimeLog(row.get("logged_at"))
    tree = trajectory.head.tree
    actions = []
    for one in taken:
        if one is None or None in one.values():
            raise ValueError("actions_taken holds a null")
        if one["action"] not in get_args(ActionKind):
            raise ValueError(f"actions_taken has an action {one['action']!r}: one of {get_args(ActionKind)}")
        node = Node(one["node_level"], one["node_index"])
        first, end = tree.span(node)
        if not 1 <= node.level <= tree.max_level or first < trajectory.head.start or end > trajectory.end:
            raise ValueError(f"actions_taken names level {node.level} node {node.index}, outside the window")
        actions.append(Action(one["action"], node))
    return RuntimeLog(row.get("logged_at"), tuple(actions))


def _refuse_unfit(tokens: npt.NDArray[np.int32], trajectory: Trajectory, source: ModelSource) -> None:
    if trajectory.num_positions > source.max_positions:
        raise ValueError(
            f"the context spans {trajectory.num_positions} positions, the base model has "
            f"{source.max_positions}: use a later start"
        )
    if tokens.max() >= source.vocabulary_size:
        raise ValueError(f"token id {tokens.max()} is not among the base model's {source.vocabulary_size}")
