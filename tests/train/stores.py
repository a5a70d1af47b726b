"""A small store with learnable labels: a span's value of detail is its gist's first number.

K = 4, two gist levels; every document has a labelled trajectory with two cursors and, optionally, a group of
variants whose losses are the sums of the values their maps hide.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mctrace.context.actions import legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store
from mctrace.seeding import generator_for

PROVENANCE = {
    "model_hash": "model",
    "tokenizer_hash": "tokenizer",
    "gist_hash": "gists",
    "dtype": "float32",
    "block_size": 4,
    "max_level": 2,
}
TREE = TreeShape(4, 2)
WIDTH, VOCABULARY, NUM_TOKENS = 8, 50, 160
CURSORS, HORIZON, PROTECTED_TAIL = (128, 132), 4, 8
SPLITS = ("train", "train", "train", "validation", "test")


def learnable_store(folder: Path, num_documents: int = 15, num_variants: int = 0) -> Store:
    store = create_store(str(folder))
    run = {"run_id": "run", "event": "start", "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
           "model_name": "m", "model_hash": "model", "config": "{}"}  # fmt: skip
    table = generator_for("table").normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    parts = [
        write_part(store.location, part_id="run", kind="run", run_id="run", tables={"runs": [run]}),
        write_part(
            store.location, part_id="embeddings", kind="embeddings", run_id="run",
            tables={"embeddings": [{"model_hash": "model", "dtype": "float32", "embedding_dim": WIDTH,
                                    "vocabulary_size": VOCABULARY}]},
            arrays={"embedding_table": table},
        ),
    ]  # fmt: skip
    trajectories: list[dict[str, Any]] = []
    effects: list[dict[str, Any]] = []
    for number in range(num_documents):
        name = f"document-{number:02d}"
        arrays = _arrays(name)
        row = {**PROVENANCE, "document_id": name, "source": f"{name}.txt", "num_tokens": NUM_TOKENS,
               "split_group": name, "split": SPLITS[number % len(SPLITS)], "minhash": []}  # fmt: skip
        parts.append(
            write_part(
                store.location, part_id=name, kind="document", run_id="run",
                tables={"documents": [row]}, arrays=arrays,
            )
        )  # fmt: skip
        head = _random_map(f"{name}-head")
        trajectories.append(_trajectory(name, f"{name}-head", head, "recency", None, 2.0))
        effects += _effects(f"{name}-head", head, arrays)
        if num_variants:
            for policy, tag in (
                ("variant_lod0", "lod0"),
                *(("variant_random", str(i)) for i in range(num_variants)),
            ):
                lod_map = LODMap.of_tokens(TREE, 0, CURSORS[0])
                if policy == "variant_random":
                    lod_map = _random_map(f"{name}-{tag}")
                loss = 2.0 + sum(max(0.0, v) for v in _hidden(lod_map, arrays))
                group = f"{name}-group"
                trajectories.append(_trajectory(name, f"{name}-{tag}", lod_map, policy, group, loss))
    parts.append(
        write_part(
            store.location, part_id="labels", kind="trajectory", run_id="run",
            tables={"trajectories": trajectories, "effects": effects},
        )
    )  # fmt: skip
    store.commit(parts)
    return store


def _arrays(name: str) -> dict[str, np.ndarray]:
    chance = generator_for("arrays", name)
    return {
        "tokens": chance.integers(0, VOCABULARY, NUM_TOKENS).astype(np.int32),
        "gists/lod1": chance.normal(size=(NUM_TOKENS // 4, WIDTH)).astype(np.float32),
        "gists/lod2": chance.normal(size=(NUM_TOKENS // 16, WIDTH)).astype(np.float32),
    }


def worth(node: Node, arrays: dict[str, np.ndarray]) -> float:
    """Value of detail, nats per token."""
    return 0.05 * float(arrays[f"gists/lod{node.level}"][node.index, 0])


def _random_map(name: str) -> LODMap:
    chance = generator_for("map", name)
    levels = np.repeat(chance.integers(0, 3, CURSORS[0] // 16), 4)
    mixed = chance.random(len(levels)) < 0.5
    levels = np.where((levels < 2) & mixed, 1 - np.minimum(levels, 1), levels)
    levels[-2:] = np.minimum(levels[-2:], 0) if levels[-1] < 2 else levels[-2:]
    return LODMap(TREE, 0, CURSORS[0], levels.astype(np.uint8))


def _hidden(lod_map: LODMap, arrays: dict[str, np.ndarray]) -> list[float]:
    entries = lod_map.entries
    return [
        worth(Node(int(level), int(index)), arrays)
        for level, index in zip(entries.level_N, entries.index_N, strict=True)
        if level > 0
    ]


def _trajectory(
    document: str, name: str, head: LODMap, policy: str, group: str | None, loss: float
) -> dict[str, Any]:
    num_tokens = CURSORS[-1] - CURSORS[0] + HORIZON
    return {
        **PROVENANCE, "trajectory_id": name, "run_id": "run", "document_id": document, "policy": policy,
        "variant_group": group, "protected_tail": PROTECTED_TAIL, "start": 0, "levels": head.levels.tolist(),
        "cursors": list(CURSORS), "horizon": HORIZON, "baseline_nll": [loss] * num_tokens,
        "num_legal_actions": 1, "num_tokens_run": 1, "seconds": 1.0,
    }  # fmt: skip


def _effects(name: str, head: LODMap, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    num_tokens = CURSORS[-1] - CURSORS[0] + HORIZON
    chance = generator_for("noise", name)
    found = []
    for action in legal_actions(head, PROTECTED_TAIL):
        value = worth(action.node, arrays)
        sign = -1 if action.kind == "expand" else 1
        found.append(
            {
                "trajectory_id": name, "action": action.kind, "node_level": action.node.level,
                "node_index": action.node.index, "entry_level": action.entry_level,
                "first_token": CURSORS[0], "estimator": "exact", "inclusion_probability": 1.0,
                "status": "ok", "delta_nll": (sign * value + 0.002 * chance.normal(size=num_tokens)).tolist(),
            }
        )  # fmt: skip
    return found
