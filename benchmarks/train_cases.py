"""What `make bench-train` runs on: contexts as large as deployment's, made up, in memory and in a store."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mctrace.context.actions import legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.batch import NUM_TAIL_GISTS, Batch
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store
from mctrace.seeding import generator_for

TREE = TreeShape()
VOCABULARY, HORIZON, PROTECTED_TAIL = 4096, 16, 128


@dataclass(frozen=True)
class Sizes:
    """Of one batch."""

    num_snapshots: int
    num_entries: int
    num_actions: int
    embedding_dim: int


def random_batch(sizes: Sizes, seed: int = 0) -> Batch:
    """Half gists of both levels and half tokens, or more gists where more actions are wanted; no padding.

    A collapse acts on a whole group of tokens as long as there are any, every other action is an expand.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, entries, actions = sizes.num_snapshots, sizes.num_entries, sizes.num_actions
    block = TREE.block_size
    num_gists = max(entries // 2, min(entries, actions))
    levels_N = torch.zeros(entries, dtype=torch.int64)
    levels_N[:num_gists] = torch.arange(num_gists) % 2 + 1
    expand_N, collapse_N = torch.full((entries,), -1), torch.full((entries,), -1)
    num_collapses = min(actions // 2, (entries - num_gists) // block)
    num_expands = actions - num_collapses
    expand_N[:num_expands] = torch.arange(num_expands)
    for collapse in range(num_collapses):
        group = slice(num_gists + collapse * block, num_gists + (collapse + 1) * block)
        collapse_N[group] = num_expands + collapse
    is_expand = (torch.arange(actions) < num_expands).expand(rows, -1)
    size = torch.rand(rows, actions, generator=generator)
    utilities = torch.where(is_expand, size, -size)
    by_row = (rows, -1)
    width_N = block**levels_N
    distance_N = width_N.sum() - width_N.cumsum(0)
    taken = torch.where(expand_N >= 0, expand_N, collapse_N)
    return Batch(
        context_embeddings=torch.randn(rows, entries, sizes.embedding_dim, generator=generator),
        tail_gists=torch.randn(rows, NUM_TAIL_GISTS, sizes.embedding_dim, generator=generator),
        tail_mask=torch.ones(rows, NUM_TAIL_GISTS, dtype=torch.bool),
        entry_mask=torch.ones(rows, entries, dtype=torch.bool),
        levels=levels_N.expand(by_row).clone(),
        span_width=width_N.expand(by_row).clone(),
        distance_to_cursor=distance_N.expand(by_row).clone(),
        context_tokens=width_N.sum().expand(rows).clone(),
        target_utilities=torch.where(taken >= 0, utilities[:, taken], 0.0),
        action_mask=(taken >= 0).expand(by_row).clone(),
        regression_weights=torch.where(expand_N >= 0, 1.0, torch.where(collapse_N >= 0, 1 / block, 0.0))
        .expand(by_row)
        .clone(),
        expand_action=expand_N.expand(by_row).clone(),
        collapse_action=collapse_N.expand(by_row).clone(),
        action_present=torch.ones(rows, actions, dtype=torch.bool),
        action_is_expand=is_expand.clone(),
        action_utilities=utilities,
        action_delta_nll=-utilities,
        action_stderr=torch.full((rows, actions), 0.01),
        action_positions=torch.full((rows, actions), block - 1),
        action_inclusion=torch.ones(rows, actions),
        block_size=block,
        max_level=TREE.max_level,
        snapshot_ids=tuple(map(str, range(rows))),
        document_ids=tuple(map(str, range(rows))),
    )


def ranked_actions(num_snapshots: int, num_actions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, utilities and presence [B, A] for the ranking term alone."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_snapshots, num_actions)
    scores, utilities = torch.randn(2, *shape, generator=generator)
    return scores.requires_grad_(), utilities, torch.ones(shape, dtype=torch.bool)


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
