"""A store written by hand, small enough to compute every answer on paper: K = 4, two trajectories."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store

PROVENANCE = {
    "model_hash": "model",
    "tokenizer_hash": "tokenizer",
    "gist_hash": "mean",
    "dtype": "float32",
    "block_size": 4,
    "max_level": 2,
}
WIDTH = 3
NUM_TOKENS = 64
VOCABULARY = 11


def embedding_table() -> np.ndarray:
    return np.arange(VOCABULARY * WIDTH, dtype=np.float32).reshape(VOCABULARY, WIDTH)


def document_arrays(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "tokens": generator.integers(0, VOCABULARY, NUM_TOKENS).astype(np.int32),
        "gists/lod1": generator.normal(size=(NUM_TOKENS // 4, WIDTH)).astype(np.float32),
        "gists/lod2": generator.normal(size=(NUM_TOKENS // 16, WIDTH)).astype(np.float32),
    }


def add_document(store: Store, document_id: str, split: str, seed: int, **columns: object) -> None:
    row = {
        **PROVENANCE,
        "source": f"{document_id}.txt",
        **columns,
        "document_id": document_id,
        "num_tokens": NUM_TOKENS,
        "split_group": document_id,
        "split": split,
        "minhash": [1, 2],
    }
    part = write_part(
        store.location, part_id="-".join(
            ["document", document_id, *(str(v) for k, v in columns.items() if k != "source")]
        ),
        kind="document", run_id="run",
        tables={"documents": [row]}, arrays=document_arrays(seed),
    )  # fmt: skip
    store.commit([part])


def add_trajectory(
    store: Store,
    trajectory_id: str,
    document_id: str,
    effects: list[dict[str, object]],
    *,
    levels: tuple[int, ...] = (2, 2, 2, 2, 1, 1, 0, 0),
    cursors: tuple[int, ...] = (32, 36),
    horizon: int = 4,
    joint_effects: Sequence[dict[str, object]] = (),
    attention: Sequence[dict[str, object]] = (),
    **columns: object,
) -> None:
    row = {
        **PROVENANCE,
        "trajectory_id": trajectory_id,
        "run_id": "run",
        "document_id": document_id,
        "policy": "recency",
        "variant_group": None,
        "protected_tail": 4,
        "start": 0,
        "levels": list(levels),
        "cursors": list(cursors),
        "horizon": horizon,
        "baseline_nll": [float(i) for i in range(cursors[-1] + horizon - cursors[0])],
        "num_legal_actions": len(effects),
        "num_tokens_run": 100,
        "seconds": 2.0,
        **columns,
    }
    common = {
        "trajectory_id": trajectory_id,
        "estimator": "exact",
        "inclusion_probability": 1.0,
        "status": "ok",
    }
    tables = {"trajectories": [row], "effects": [{**common, **effect} for effect in effects]}
    side = {"joint_effects": list(joint_effects), "attention": list(attention)}
    tables.update({name: rows for name, rows in side.items() if rows})
    part = write_part(store.location, part_id=trajectory_id, kind="trajectory", run_id="run", tables=tables)
    store.commit([part])


def effect(action: str, level: int, index: int, first_token: int, delta_nll: list[float], **columns) -> dict:
    entry_level = level if action == "expand" else level - 1
    return {
        "action": action,
        "node_level": level,
        "node_index": index,
        "entry_level": entry_level,
        "first_token": first_token,
        "delta_nll": delta_nll,
        **columns,
    }


EFFECTS = [
    effect("expand", 2, 0, 32, [-1.0, -1, -1, -1, -3, -3, -3, -3]),
    effect("expand", 1, 4, 32, [0.5, -0.5, 0.5, -0.5, 1, 1, 1, 1]),
    effect("collapse", 1, 6, 32, [0.25] * 8, inclusion_probability=0.5),
    # the block that ends at 32 may only collapse once the cursor has moved beyond its protection
    effect("collapse", 1, 7, 32, [0.75] * 8),
]


def add_other_gists(store: Store) -> None:
    """The training document measured with another GistNet as well."""
    add_document(store, "a", "train", 7, gist_hash="other")
    add_trajectory(store, "other", "a", EFFECTS, gist_hash="other")


def add_vocabulary(store: Store) -> None:
    """Ids read as a, b, c, …"""
    words = [
        {"tokenizer_hash": PROVENANCE["tokenizer_hash"], "token_id": i, "text": chr(97 + i)}
        for i in range(VOCABULARY)
    ]
    tables = {"vocabulary": words}
    part = write_part(store.location, part_id="words", kind="vocabulary", run_id="run", tables=tables)
    store.commit([part])


def add_other_model(store: Store, width: int = WIDTH) -> None:
    """A document measured with another base model, whose embeddings have `width`."""
    table = np.ones((VOCABULARY, width), dtype=np.float32)
    row = {"model_hash": "larger", "dtype": "float32", "vocabulary_size": VOCABULARY, "embedding_dim": width}
    part = write_part(
        store.location, part_id="embeddings-larger", kind="embeddings", run_id="run",
        tables={"embeddings": [row]}, arrays={"embedding_table": table},
    )  # fmt: skip
    store.commit([part])
    add_document(store, "a", "train", 7, model_hash="larger")
    add_trajectory(store, "larger", "a", EFFECTS, model_hash="larger")


def synthetic_store(folder: Path | str) -> Store:
    """Documents a, b, c (train, validation, test), one trajectory each with the effects above."""
    store = create_store(f"{folder}/store")
    started = {"run_id": "run", "event": "start", "recorded_at": datetime.now(UTC), "model_name": "m",
               "model_hash": "model", "config": "{}"}  # fmt: skip
    parts = [
        write_part(store.location, part_id="run-start", kind="run", run_id="run", tables={"runs": [started]}),
        write_part(
            store.location, part_id="embeddings", kind="embeddings", run_id="run",
            tables={"embeddings": [{"model_hash": "model", "dtype": "float32", "vocabulary_size": VOCABULARY,
                                    "embedding_dim": WIDTH}]},
            arrays={"embedding_table": embedding_table()},
        ),
    ]  # fmt: skip
    store.commit(parts)
    for seed, (document_id, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        add_document(store, document_id, split, seed)
        add_trajectory(store, f"t{document_id}", document_id, EFFECTS)
    return store
