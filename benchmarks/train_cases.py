"""The store that `make bench-train` reads from: made up, with contexts as large as deployment's."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train_batches import TREE
from mctrace.context.actions import legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store
from mctrace.seeding import generator_for

VOCABULARY, HORIZON, PROTECTED_TAIL = 4096, 16, 128


def write_store(
    folder: Path,
    *,
    num_documents: int,
    num_tokens: int,
    head_entries: int,
    num_cursors: int,
    embedding_dim: int,
) -> Store:
    """A store of random documents with one labelled trajectory each, every legal action measured."""
    store = create_store(str(folder))
    provenance = {
        "model_hash": "random", "tokenizer_hash": "random", "gist_hash": "random", "dtype": "float32",
        "block_size": TREE.block_size, "max_level": TREE.max_level,
    }  # fmt: skip
    table = generator_for("table").normal(size=(VOCABULARY, embedding_dim)).astype(np.float32)
    run = {"run_id": "run", "event": "start", "recorded_at": datetime.now(UTC), "config": "{}"}
    embeddings = {
        "model_hash": "random", "dtype": "float32", "vocabulary_size": VOCABULARY,
        "embedding_dim": embedding_dim,
    }  # fmt: skip
    parts = [
        write_part(store.location, part_id="run", kind="run", run_id="run", tables={"runs": [run]}),
        write_part(
            store.location, part_id="embeddings", kind="embeddings", run_id="run",
            tables={"embeddings": [embeddings]}, arrays={"embedding_table": table},
        ),
    ]  # fmt: skip
    for number in range(num_documents):
        name = f"document-{number}"
        arrays = _document_arrays(name, num_tokens, embedding_dim)
        split = ("train", "train", "train", "validation", "test")[number % 5]
        document = {
            **provenance, "document_id": name, "source": name, "num_tokens": num_tokens, "split_group": name,
            "split": split, "minhash": [],
        }  # fmt: skip
        trajectory, effects = _trajectory(name, num_tokens, head_entries, num_cursors)
        tables = {
            "documents": [document], "trajectories": [{**provenance, **trajectory}], "effects": effects
        }  # fmt: skip
        parts.append(
            write_part(
                store.location, part_id=name, kind="document", run_id="run", tables=tables, arrays=arrays
            )
        )
    store.commit(parts)
    return store


def _document_arrays(name: str, num_tokens: int, embedding_dim: int) -> dict[str, Any]:
    chance = generator_for("arrays", name)
    gists = {
        f"gists/lod{level}": chance.normal(size=(num_tokens // TREE.span_width(level), embedding_dim)).astype(
            np.float32
        )
        for level in (1, 2)
    }
    return {"tokens": chance.integers(0, VOCABULARY, num_tokens).astype(np.int32), **gists}


def _trajectory(
    name: str, num_tokens: int, head_entries: int, num_cursors: int
) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    chance = generator_for("trajectory", name)
    stride = TREE.block_size
    cursor = num_tokens - HORIZON - stride * num_cursors
    cursor -= cursor % stride
    num_blocks = cursor // TREE.block_size
    # Tokens as far back as the wanted length allows, level-1 gists before them.
    num_token_blocks = min(
        num_blocks, max(4, math.floor((head_entries - num_blocks) / (TREE.block_size - 1)))
    )
    levels = np.ones(num_blocks, dtype=np.uint8)
    levels[num_blocks - num_token_blocks :] = 0
    head = LODMap(TREE, 0, cursor, levels)
    cursors = [cursor + stride * i for i in range(num_cursors)]
    length = cursors[-1] - cursor + HORIZON
    trajectory = {
        "trajectory_id": name, "run_id": "run", "document_id": name, "policy": "recency",
        "variant_group": None, "protected_tail": PROTECTED_TAIL, "start": 0, "levels": levels.tolist(),
        "cursors": cursors, "horizon": HORIZON, "baseline_nll": [1.0] * length, "num_legal_actions": 1,
        "num_tokens_run": 1, "seconds": 1.0,
    }  # fmt: skip
    effects = [
        {
            "trajectory_id": name, "action": action.kind, "node_level": action.node.level,
            "node_index": action.node.index, "entry_level": action.entry_level, "first_token": cursor,
            "delta_nll": (0.02 * chance.normal(size=length)).tolist(), "estimator": "exact",
            "inclusion_probability": 1.0, "status": "ok",
        }
        for action in legal_actions(head, PROTECTED_TAIL)
    ]  # fmt: skip
    return trajectory, effects
