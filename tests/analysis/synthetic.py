"""A small store whose every number can be worked out by hand: K = 4, horizon 32 tokens.

Values of detail are multiples of 1/16 and constant within each half of the horizon, so sums are exact. A
token's id is the byte of text it stands for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store

BLOCK_SIZE = 4
HORIZON = 32
FIRST_CURSOR = 64
SCRIPT_SOURCE = "<script>alert('corpus')</script>"
ODD_SOURCE = (
    "r\u00e9sum\u00e9 \U0001f984 \u202egnp.exe\u2066 \"'><img src=x onerror=alert(1)> {{ 7*7 }} \u2028.py"
)
SCRIPT_TEXT = (
    "<script>window.hacked=1</script>\x00\x1b[31m\u202e\U0001f984 caf\u00e9 <b onclick=hack()>\u2028end. "
)
"""64 bytes and more: markup, a NUL, an escape sequence, a mark that turns the writing direction, an emoji
that begins in one block and ends in the next"""
NUM_TOKENS = 200
WIDTH = 6

Row = dict[str, object]


TOKENIZER_HASH = "bytes-are-tokens"


@dataclass(frozen=True)
class Measured:
    """One action with its value of detail in the first and the second half of the horizon, nats per token."""

    action: str
    node_level: int
    node_index: int
    first: float | None
    """None: the action failed"""
    second: float | None = None
    """None: as the first"""
    wobble: float = 0.0
    """added to one token, taken from the next"""
    probability: float = 1.0


@dataclass(frozen=True)
class Trajectory:
    """A document of its own with one trajectory. The map: 4 blocks at level 2, 4 at level 1, then level 0."""

    name: str
    split: str
    measured: Sequence[Measured]
    cursors: Sequence[int] = (FIRST_CURSOR,)
    source: str | None = None
    text: str = "The quick brown fox jumps over the lazy dog, and over again. "
    """repeated until it fills the document"""
    metadata: str | None = None


BY_HAND = (
    Trajectory(
        "a",
        "train",
        [
            Measured("expand", 1, 4, 0.5, probability=0.5),
            Measured("expand", 1, 5, 0.25, probability=0.5),
            Measured("expand", 1, 6, 0.125, 0.375, probability=0.5),
            Measured("expand", 1, 7, -0.125, wobble=1.0, probability=0.5),
            Measured("expand", 2, 0, 0.0625),
            Measured("collapse", 1, 8, 0.75, 0.25, probability=0.25),
            Measured("collapse", 1, 9, 0.0, probability=0.25),
            Measured("collapse", 2, 1, -0.25),
            Measured("collapse", 1, 10, None),
        ],
        source=SCRIPT_SOURCE,
        text=SCRIPT_TEXT,
        metadata='{"language": "<b>en</b>", "year": 2024, "tags": ["x"]}',
    ),
    Trajectory(
        "b",
        "test",
        [Measured("expand", 1, 4, 1.0), Measured("expand", 1, 5, 0.0)],
        cursors=(FIRST_CURSOR, FIRST_CURSOR + 4),
        source=ODD_SOURCE,
        metadata='{"language": "<b>en</b>", "tags": ["x"]}',
    ),
    Trajectory("c", "validation", []),
)


def write_store(
    folder: Path, trajectories: Sequence[Trajectory], words: Sequence[Row] | None = None
) -> Store:
    """A store of one run with these trajectories; none at all: an empty store. `words` are the rows of its
    vocabulary, where that is not the bytes.
    """
    store = create_store(str(folder))
    if trajectories:
        vocabulary = byte_vocabulary() if words is None else {"vocabulary": list(words)}
        add_trajectories(store, trajectories, "run-1", vocabulary)
    return store


def byte_vocabulary() -> dict[str, list[Row]]:
    """Vocabulary in which every id is the byte of its number; from 128 on bytes are parts of characters."""
    ids = [{"tokenizer_hash": TOKENIZER_HASH, "token_id": i} for i in range(256)]
    return {
        "vocabulary": [{**key, "text": chr(i) if i < 128 else "\ufffd"} for i, key in enumerate(ids)],
        "token_bytes": [{**key, "bytes": bytes([i])} for i, key in enumerate(ids) if i >= 128],
    }


def add_trajectories(
    store: Store,
    trajectories: Sequence[Trajectory],
    run_id: str,
    vocabulary: dict[str, list[Row]] | None = None,
) -> None:
    """Commit one more run as one version: its documents, trajectories and measurements."""

    def part(name: str, kind: str, tables: dict[str, list[Row]], arrays: dict[str, np.ndarray] | None = None):
        name = f"{run_id} {name}"
        return write_part(
            store.location, part_id=name, kind=kind, run_id=run_id, tables=tables, arrays=arrays
        )

    width = {"model_hash": "model-hash", "dtype": "float32", "vocabulary_size": 256, "embedding_dim": WIDTH}
    parts = [
        part("run", "run", {"runs": [_run(run_id, "start", 0), _run(run_id, "end", 1)]}),
        part("embeddings", "embeddings", {"embeddings": [width]}, {"embedding_table": _normal("table", 256)}),
    ]
    if vocabulary:
        parts.append(part("words", "vocabulary", vocabulary))
    for trajectory in trajectories:
        tables = {"documents": [_document(trajectory)]}
        parts.append(part(f"document {trajectory.name}", "document", tables, _arrays(trajectory)))
        if trajectory.measured:
            tables = {
                "trajectories": [_trajectory(trajectory, run_id)],
                "effects": [_effect(trajectory, measured) for measured in trajectory.measured],
            }
            parts.append(part(f"trajectory {trajectory.name}", "trajectory", tables))
    store.commit(parts)


def _arrays(trajectory: Trajectory) -> dict[str, np.ndarray]:
    encoded = trajectory.text.encode()
    tokens = (encoded * (NUM_TOKENS // len(encoded) + 1))[:NUM_TOKENS]
    return {
        "tokens": np.frombuffer(tokens, dtype=np.uint8).astype(np.int32),
        "gists/lod1": _normal(trajectory.name, NUM_TOKENS // BLOCK_SIZE),
        "gists/lod2": _normal(trajectory.name, NUM_TOKENS // BLOCK_SIZE**2),
    }


def _normal(name: str, num_rows: int) -> np.ndarray:
    generator = np.random.default_rng(list(name.encode()))
    return generator.normal(size=(num_rows, WIDTH)).astype(np.float32)


def _run(run_id: str, event: str, minute: int) -> Row:
    return {
        "run_id": run_id,
        "event": event,
        "recorded_at": datetime(2026, 1, 2, 3, minute, tzinfo=UTC),
        "model_name": "tiny",
        "model_hash": "model-hash",
        "tokenizer_hash": TOKENIZER_HASH,
        "gist_source": "mean",
        "gist_hash": "mean",
        "dtype": "float32",
        "estimator": "exact",
        "config": '{"note": "</script><b>"}',
        "software": "{}",
        "outcome": "finished" if event == "end" else None,
    }


def _document(trajectory: Trajectory) -> Row:
    return {
        "document_id": f"document-{trajectory.name}",
        "source": trajectory.source or trajectory.name,
        "tokenizer_hash": TOKENIZER_HASH,
        "gist_hash": "mean",
        "model_hash": "model-hash",
        "dtype": "float32",
        "num_tokens": NUM_TOKENS,
        "block_size": BLOCK_SIZE,
        "max_level": 2,
        "split_group": trajectory.name,
        "split": trajectory.split,
        "minhash": [],
        "metadata": trajectory.metadata,
    }


def _trajectory(trajectory: Trajectory, run_id: str) -> Row:
    return {
        "trajectory_id": f"trajectory-{trajectory.name}",
        "run_id": run_id,
        "document_id": f"document-{trajectory.name}",
        "policy": "recency",
        "model_hash": "model-hash",
        "tokenizer_hash": TOKENIZER_HASH,
        "gist_hash": "mean",
        "dtype": "float32",
        "block_size": BLOCK_SIZE,
        "max_level": 2,
        "protected_tail": 8,
        "start": 0,
        "levels": [2] * 4 + [1] * 4 + [0] * (trajectory.cursors[0] // BLOCK_SIZE - 8),
        "cursors": list(trajectory.cursors),
        "horizon": HORIZON,
        "baseline_nll": [2.0] * _num_tokens(trajectory),
        "num_legal_actions": 12,
        "num_tokens_run": 100,
        "seconds": 1.0,
    }


def _effect(trajectory: Trajectory, measured: Measured) -> Row:
    return {
        "trajectory_id": f"trajectory-{trajectory.name}",
        "action": measured.action,
        "node_level": measured.node_level,
        "node_index": measured.node_index,
        "entry_level": measured.node_level - (measured.action == "collapse"),
        "first_token": trajectory.cursors[0],
        "delta_nll": _delta_nll(measured, _num_tokens(trajectory)),
        "estimator": "exact",
        "inclusion_probability": measured.probability,
        "status": "failed" if measured.first is None else "ok",
    }


def _delta_nll(measured: Measured, num_tokens: int) -> list[float] | None:
    if measured.first is None:
        return None
    sign = -1 if measured.action == "expand" else 1
    second = measured.first if measured.second is None else measured.second
    values = [measured.first if token < HORIZON // 2 else second for token in range(num_tokens)]
    return [sign * value + (-1) ** token * measured.wobble for token, value in enumerate(values)]


def _num_tokens(trajectory: Trajectory) -> int:
    return trajectory.cursors[-1] - trajectory.cursors[0] + HORIZON


def write_run(folder: Path) -> Path:
    """A training run folder with a few steps and an evaluation, with awkward names and numbers."""
    nan = float("nan")
    steps: list[Row] = [
        {"step": 10, "split": "train", "loss": 1.0, "L_reg": 0.5, "<b>bold</b>": 1.0},
        {"step": 20, "split": "train", "loss": None, "L_reg": 0.25, "<b>bold</b>": nan},
        {"step": 20, "split": "</script><i>", "loss": 0.75, "utility_correlation": 0.125},
    ]
    folder.joinpath("metrics.jsonl").write_text("\n".join(json.dumps(step) for step in steps) + '\n{"st')
    estimate = {"mean": 0.25, "low": 0.125, "high": 0.5, "num_documents": 3}
    evaluation = {
        "checkpoints": ["runs/</script><i>/best"],
        "split": "test",
        "scorers": {
            "<b>bold</b>": {"utility_correlation": estimate},
            "noise \ud800": {
                "utility_correlation": {"mean": 0.0, "low": None, "high": None},
                "mse": {"mean": nan},
            },
        },
    }
    folder.joinpath("evaluation.json").write_text(json.dumps(evaluation))
    return folder


def write_checkpoint(folder: Path, seed: int = 0, target: str = "priced", **dataset: str) -> Path:
    """A small random LensNet that fits the store, or does not where `dataset` says so."""
    from mctrace.datasets.sql.registry import target_sql
    from mctrace.train.checkpoints.lensnet_checkpoint import describe, save_checkpoint
    from mctrace.train.config import TrainConfig
    from mctrace.train.networks.config import NetworkConfig
    from mctrace.train.networks.registry import build_network

    config = TrainConfig(network=NetworkConfig(d_lens=8, num_heads=2, num_stacks=1), target=target)
    info = describe(
        config,
        embedding_dim=WIDTH,
        block_size=BLOCK_SIZE,
        max_level=2,
        utility_scale=0.25,
        dataset={
            "uri": "store",
            "version": 1,
            "model_hash": "model-hash",
            "gist_hash": "mean",
            "dtype": "float32",
            **dataset,
        },
        target_sql=target_sql(target),
    )
    save_checkpoint(folder, build_network(config.network, WIDTH, seed=seed), info)
    return folder
