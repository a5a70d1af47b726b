"""Stores of known size for the store benchmark: random numbers in the shapes of real measurements.

To a compressor the losses and gists of a language model are as good as random, so sizes carry over; the
shapes are those of SmolLM2-135M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.cursor_means import mean_columns
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.schemas import EFFECTS
from mctrace.datasets.store.store import Store, create_store

TREE = TreeShape(32, 2)
VOCABULARY = 49_152
WIDTH = 576
STRIDE = 32
HORIZON = 128
PROTECTED_TAIL = 128
COMMON = {
    "model_hash": "model",
    "tokenizer_hash": "tokenizer",
    "gist_hash": "gists",
    "dtype": "float32",
    "block_size": TREE.block_size,
    "max_level": TREE.max_level,
}
_SPLIT_CYCLE = ("train", "train", "train", "validation", "test")


@dataclass(frozen=True)
class StoreCase:
    """A kind of context. `level_blocks`: blocks of the head at levels 2, 1 and 0, oldest first."""

    name: str
    level_blocks: tuple[int, int, int]
    num_cursors: int = 8

    def trajectory(self) -> Trajectory:
        levels = np.repeat([2, 1, 0], self.level_blocks).astype(np.uint8)
        head = LODMap(TREE, 0, len(levels) * TREE.block_size, levels)
        cursors = tuple(head.cursor + STRIDE * i for i in range(self.num_cursors))
        return Trajectory(head, cursors, HORIZON)

    @property
    def num_tokens(self) -> int:
        return self.trajectory().end


LEVEL0 = StoreCase("8,192 entries, all tokens", (0, 0, 256))
MIXED = StoreCase("8,192 entries, a quarter of the blocks gists", (0, 96, 253))
RECENCY = StoreCase("8,192 tokens ever coarser, 318 entries", (192, 56, 8))
SMALL = StoreCase("1,024 entries, all tokens", (0, 0, 32))


def make_store(folder: Path, case: StoreCase, num_documents: int, per_document: int = 1) -> Store:
    """A store of `num_documents` documents with `per_document` trajectories each, every action measured."""
    store, random = create_store(str(folder)), np.random.default_rng(0)
    store.commit([_run(store), _embeddings(store, random)])
    for number in range(num_documents):
        document = f"document{number:06}"
        parts = [
            write_document(store, document, case.num_tokens, _SPLIT_CYCLE[number % len(_SPLIT_CYCLE)], random)
        ]
        parts += [
            write_trajectory(store, f"{document}-{i}", document, case, random) for i in range(per_document)
        ]
        store.commit(parts)
    return store


def _run(store: Store) -> Part:
    row = {**COMMON, "run_id": "run", "event": "start", "recorded_at": datetime.now(UTC), "config": "{}"}
    kept = {name: value for name, value in row.items() if name not in ("block_size", "max_level")}
    return write_part(store.location, part_id="run", kind="run", run_id="run", tables={"runs": [kept]})


def _embeddings(store: Store, random: np.random.Generator) -> Part:
    row = {"model_hash": "model", "dtype": "float32", "vocabulary_size": VOCABULARY, "embedding_dim": WIDTH}
    table = random.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    return write_part(
        store.location, part_id="embeddings", kind="embeddings", run_id="run",
        tables={"embeddings": [row]}, arrays={"embedding_table": table},
    )  # fmt: skip


def write_document(
    store: Store, document_id: str, num_tokens: int, split: str, random: np.random.Generator
) -> Part:
    row = {**COMMON, "document_id": document_id, "source": f"{document_id}.txt", "num_tokens": num_tokens,
           "split_group": document_id, "split": split, "minhash": list(range(128))}  # fmt: skip
    arrays: dict[str, Any] = {"tokens": random.integers(0, VOCABULARY, num_tokens).astype(np.int32)}
    for level in (1, 2):
        shape = (TREE.num_complete_nodes(level, num_tokens), WIDTH)
        arrays[f"gists/lod{level}"] = random.normal(size=shape).astype(np.float32)
    return write_part(
        store.location, part_id=f"{document_id}-arrays", kind="document", run_id="run",
        tables={"documents": [row]}, arrays=arrays,
    )  # fmt: skip


def write_trajectory(
    store: Store, trajectory_id: str, document_id: str, case: StoreCase, random: np.random.Generator
) -> Part:
    trajectory = case.trajectory()
    effects = list(_effects(trajectory, trajectory_id, random))
    row = {
        **COMMON,
        "trajectory_id": trajectory_id, "run_id": "run", "document_id": document_id, "policy": "recency",
        "protected_tail": PROTECTED_TAIL, "start": 0, "levels": trajectory.head.levels.tolist(),
        "cursors": list(trajectory.cursors), "horizon": HORIZON,
        "baseline_nll": random.exponential(2.0, trajectory.end - trajectory.first_cursor).tolist(),
        "num_legal_actions": len(effects), "num_tokens_run": 0, "seconds": 1.0, "baseline_status": "ok",
    }  # fmt: skip
    return write_part(
        store.location, part_id=trajectory_id, kind="trajectory", run_id="run",
        tables={"trajectories": [row], "effects": pa.Table.from_pylist(effects, schema=EFFECTS)},
    )  # fmt: skip


def _effects(
    trajectory: Trajectory, trajectory_id: str, random: np.random.Generator
) -> Iterator[dict[str, object]]:
    for action in trajectory.legal_actions(PROTECTED_TAIL):
        first_token = trajectory.first_token_after(TREE.span(action.node)[1])
        num_values = trajectory.end - first_token
        values = random.normal(scale=0.05, size=num_values).astype(np.float32)
        yield {
            "trajectory_id": trajectory_id, "action": action.kind, "node_level": action.node.level,
            "node_index": action.node.index, "entry_level": action.entry_level, "first_token": first_token,
            "delta_nll": values, **mean_columns(values, first_token, trajectory.cursors, HORIZON),
            "estimator": "exact", "inclusion_probability": 1.0, "status": "ok",
            "first_entry": 0, "num_entries": 1,
        }  # fmt: skip
