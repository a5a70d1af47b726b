"""The rows of an export: snapshots with their context and labels, the documents they name, embedding tables.

What belongs together entry by entry, or action by action, stands in parallel lists (`entry_level` beside
`entry_token`), which become arrays without any unpacking.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.store.zarr_arrays import (
    ArrayFolder,
    DocumentPlace,
    open_arrays,
    read_array,
    read_document,
)

_PER_SNAPSHOT = (
    "snapshot_id", "trajectory_id", "run_id", "document_id", "source", "split", "policy", "cursor",
    "cursor_offset", "start", "horizon", "baseline_nll", "num_entries", "num_positions", "protected_tail",
    "block_size", "max_level", "model_hash", "tokenizer_hash", "gist_hash", "dtype", "semantics",
    "gist_positions",
)  # fmt: skip
_EMBEDDING_ROWS = 4096
_DOCUMENTS_KEPT = 64


@dataclass(frozen=True, order=True)
class DocumentKey:
    """A document as one model and GistNet see it."""

    document_id: str
    model_hash: str
    gist_hash: str
    dtype: str
    block_size: int
    max_level: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> "DocumentKey":
        return cls(
            row["document_id"], row["model_hash"], row["gist_hash"], row["dtype"], row["block_size"],
            row["max_level"],
        )  # fmt: skip


def snapshot_rows(
    version: StoreVersion,
    batches: Iterator[pa.RecordBatch],
    places: dict[DocumentKey, DocumentPlace],
    texts: Detokenizer | None,
) -> Iterator[pa.RecordBatch]:
    """The query's rows with their entries laid out; one batch for each that comes."""

    @lru_cache(_DOCUMENTS_KEPT)
    def tokens_of(key: DocumentKey) -> npt.NDArray[Any]:
        place = places[key]
        return read_document(ArrayFolder.of(version, place.folder), place, 0)[0]

    for batch in batches:
        rows = batch.drop_columns(["actions"]).to_pylist()
        columns: dict[str, pa.Array] = {name: batch[name] for name in _PER_SNAPSHOT}
        maps = [_map_of(row) for row in rows]
        tokens = [tokens_of(DocumentKey.of(row)) for row in rows]
        columns |= _entry_columns(maps, tokens)
        if texts is not None:
            columns["entry_text"] = pa.array(
                [
                    _entry_texts(texts, row["tokenizer_hash"], tokens_T, lod_map.entries)
                    for row, tokens_T, lod_map in zip(rows, tokens, maps, strict=True)
                ],
                pa.list_(pa.string()),
            )
        columns |= _action_columns(batch["actions"], maps)
        yield pa.RecordBatch.from_pydict(columns)


def _entry_texts(
    texts: Detokenizer, tokenizer_hash: str, tokens_T: npt.NDArray[Any], entries: Entries
) -> list[str]:
    """Each entry's text beside its level and its labels; together they are the text of what is shown."""
    first = int(entries.first_token_N[0])
    begins_N, ends_N = entries.first_token_N - first, entries.end_token_N - first
    # Absent blocks leave gaps: their text is read as spans of their own, then left out.
    bounds = np.unique(np.concatenate([begins_N[1:], ends_N]))
    found = texts.spans(tokenizer_hash, tokens_T[first : first + int(ends_N[-1])].tolist(), bounds.tolist())
    return [found[place] for place in np.searchsorted(bounds, ends_N)]


def _map_of(row: dict[str, Any]) -> LODMap:
    tree, levels = TreeShape(row["block_size"], row["max_level"]), np.asarray(row["levels"], dtype=np.uint8)
    return LODMap(tree, row["start"], row["first_cursor"], levels).extended(row["cursor"])


def _entry_columns(maps: Sequence[LODMap], tokens: Sequence[npt.NDArray[Any]]) -> dict[str, pa.Array]:
    lengths = [len(lod_map.entries) for lod_map in maps]

    def lists(values: Sequence[npt.NDArray[Any]], kind: pa.DataType, **nulls: Any) -> pa.Array:
        return _lists(lengths, pa.array(np.concatenate(values), kind, **nulls))

    level_N = np.concatenate([lod_map.entries.level_N for lod_map in maps])
    shown = [
        tokens_T[np.where(lod_map.entries.level_N == 0, lod_map.entries.index_N, 0)]
        for lod_map, tokens_T in zip(maps, tokens, strict=True)
    ]
    return {
        "entry_level": lists([m.entries.level_N for m in maps], pa.uint8()),
        "entry_node_index": lists([m.entries.index_N for m in maps], pa.int32()),
        "entry_first_token": lists([m.entries.first_token_N for m in maps], pa.int64()),
        "entry_span_width": lists([m.entries.span_width_N for m in maps], pa.int32()),
        "entry_token": lists(shown, pa.int32(), mask=level_N > 0),
    }


def _action_columns(actions: pa.ListArray, maps: Sequence[LODMap]) -> dict[str, pa.Array]:
    lengths = actions.value_lengths().to_pylist()
    values = actions.flatten()
    columns = {
        ("action" if field.name == "action" else f"action_{field.name}"): _lists(lengths, values.field(i))
        for i, field in enumerate(values.type)
    }
    level_A, index_A = (
        values.field(name).to_numpy().astype(np.int64) for name in ("node_level", "node_index")
    )
    first_entry_A, num_entries_A = np.empty_like(level_A), np.empty_like(level_A)
    end = 0
    for lod_map, length in zip(maps, lengths, strict=True):
        first, end = end, end + length
        width_A = lod_map.tree.block_size ** level_A[first:end]
        begin_A = index_A[first:end] * width_A
        first_entry_A[first:end] = np.searchsorted(lod_map.entries.first_token_N, begin_A)
        past_A = np.searchsorted(lod_map.entries.first_token_N, begin_A + width_A)
        num_entries_A[first:end] = past_A - first_entry_A[first:end]
    columns["action_first_entry"] = _lists(lengths, pa.array(first_entry_A, pa.int32()))
    columns["action_num_entries"] = _lists(lengths, pa.array(num_entries_A, pa.int32()))
    return columns


def _lists(lengths: Sequence[int], values: pa.Array) -> pa.ListArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def document_rows(
    version: StoreVersion, rows: Sequence[dict[str, Any]], max_level: int, texts: Detokenizer | None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(split, one row) for each document: its tokens, its gists of every level, its text when asked for."""
    for row in rows:
        levels = range(row["max_level"] + 1)
        place = DocumentPlace.of(row)
        tokens_T, *gists = read_document(ArrayFolder.of(version, place.folder), place, *levels)
        columns: dict[str, pa.Array] = {
            name: pa.array([row[name]])
            for name in (
                "document_id", "source", "split", "split_group", "num_tokens", "block_size", "max_level",
                "model_hash", "tokenizer_hash", "gist_hash", "dtype",
            )
        }  # fmt: skip
        columns["metadata"] = pa.array([row["metadata"]], pa.string())
        columns["tokens"] = pa.array([tokens_T], pa.list_(pa.int32()))
        if texts is not None:
            columns["text"] = pa.array([texts.text(row["tokenizer_hash"], tokens_T.tolist())])
        for level in range(1, max_level + 1):
            found = gists[level - 1] if level <= len(gists) else gists[0][:0]
            columns[f"gists_lod{level}"] = pa.ListArray.from_arrays(
                pa.array([0, len(found)], pa.int32()), _vectors(found)
            )
        yield row["split"], pa.RecordBatch.from_pydict(columns)


def embedding_rows(version: StoreVersion, row: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """One row per token id of a base model's embedding table, some thousands at a time."""
    table_Vd = read_array(open_arrays(ArrayFolder.of(version, row["arrays"])), "embedding_table")
    for first in range(0, len(table_Vd), _EMBEDDING_ROWS):
        some = table_Vd[first : first + _EMBEDDING_ROWS]
        yield pa.RecordBatch.from_pydict(
            {
                "model_hash": pa.repeat(row["model_hash"], len(some)),
                "dtype": pa.repeat(row["dtype"], len(some)),
                "token": pa.array(np.arange(first, first + len(some)), pa.int32()),
                "embedding": _vectors(some),
            }
        )


def _vectors(values_Md: npt.NDArray[Any]) -> pa.ListArray:
    """As lists of one length each; not as fixed-size lists, which not every reader knows inside lists."""
    num, width = values_Md.shape
    offsets = pa.array(np.arange(num + 1) * width, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values_Md.ravel(), pa.float32()))
