"""Synthetic store of the SQL benchmark, as large as a cluster's night: a million effects of 128 tokens each.

Shaped like a real store after `mctrace compact`: contexts of 12,672 tokens at K = 32 (4 level-2 gists,
224 level-1 gists, 44 blocks of tokens), 250 actions each, a heavy tail of values, drop controls, joint edits,
attention, some windowed trajectories with audits, and groups of variants for preference pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from mctrace.datasets.store.cursor_means import cursor_means
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import Store, create_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.progress import Silent

K = 32
HORIZON = 128
LEVELS = [2] * 128 + [1] * 224 + [0] * 44
CURSOR = len(LEVELS) * K
NUM_ENTRIES = 4 + 224 + 44 * K
TAIL = 128
VOCABULARY = 5000
PROVENANCE = {
    "model_hash": "model",
    "tokenizer_hash": "tokenizer",
    "gist_hash": "mean",
    "dtype": "float32",
    "block_size": K,
    "max_level": 2,
}


@dataclass(frozen=True)
class Size:
    """Size of a store; the defaults make a million effects."""

    documents: int = 400
    trajectories_per_document: int = 10
    trajectories_per_part: int = 500
    variant_groups: int = 2000
    variants_per_group: int = 10

    @property
    def trajectories(self) -> int:
        return self.documents * self.trajectories_per_document


QUICK = Size(documents=40, trajectories_per_part=100, variant_groups=200)

Actions = list[tuple[str, int, int, int, int, float]]


def legal_actions() -> Actions:
    """250 of the context's actions: kind, node_level, node_index, first_entry, num_entries, probability."""
    found: Actions = [("expand", 2, i, i, 1, 1.0) for i in range(4)]
    found += [("expand", 1, 128 + i, 4 + i, 1, 200 / 224) for i in range(200)]
    found += [("collapse", 1, 352 + i, 228 + K * i, K, 1.0) for i in range(40)]
    found += [("collapse", 2, 4 + i, 4 + K * i, K, 1.0) for i in range(6)]
    return found


def build(folder: str, size: Size) -> Store:
    """Write the store; the same size gives the same store."""
    store, generator = create_store(folder), np.random.default_rng(0)
    store.commit([_run(store), _vocabulary(store)])
    store.commit(list(_documents(store, size, generator)))
    for first in range(0, size.trajectories, size.trajectories_per_part):
        store.commit(_measurements(store, size, first, generator))
    store.commit([_variants(store, size, generator)])
    compact(store, Silent())
    return store


def _run(store: Store) -> Part:
    common = {"run_id": "run", "model_name": "synthetic", "gist_source": "mean", "estimator": "exact",
              "config": "{}", "software": "{}", "noise_floor": {"no_op": 1e-6, "regrouped": 1e-5},
              **{name: value for name, value in PROVENANCE.items() if isinstance(value, str)}}  # fmt: skip
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [{**common, "event": "start", "recorded_at": start},
            {**common, "event": "end", "recorded_at": start, "outcome": "finished"}]  # fmt: skip
    return write_part(store.location, part_id="run", kind="run", run_id="run", tables={"runs": rows})


def _vocabulary(store: Store) -> Part:
    shapes = (" word{}", "ing{}", " {}", "(", "\n", " ", "naïve{}")
    rows = [
        {"tokenizer_hash": "tokenizer", "token_id": i, "text": shapes[i % len(shapes)].format(i)}
        for i in range(VOCABULARY)
    ]
    return write_part(
        store.location, part_id="words", kind="vocabulary", run_id="run", tables={"vocabulary": rows}
    )


def _documents(store: Store, size: Size, generator: np.random.Generator) -> Iterator[Part]:
    splits = ["train"] * 7 + ["validation", "test", "train"]
    for i in range(size.documents):
        num_tokens = CURSOR + 2 * HORIZON
        row = {**PROVENANCE, "document_id": _document(i), "source": f"corpus/{i % 97:02d}/file{i}.py",
               "num_tokens": num_tokens, "split_group": _document(i), "split": splits[i % len(splits)],
               "minhash": []}  # fmt: skip
        arrays = {"tokens": generator.integers(0, VOCABULARY, num_tokens).astype(np.int32)}
        for level in (1, 2):
            arrays[f"gists/lod{level}"] = np.zeros((num_tokens // K**level, 1), dtype=np.float32)
        yield write_part(
            store.location, part_id=f"document-{i}", kind="document", run_id="run",
            tables={"documents": [row]}, arrays=arrays,
        )  # fmt: skip


def _measurements(store: Store, size: Size, first: int, generator: np.random.Generator) -> list[Part]:
    """One compacted part of each kind."""
    ids = range(first, min(first + size.trajectories_per_part, size.trajectories))
    rows = [
        _trajectory(
            f"trajectory-{i:06d}", _document(i // size.trajectories_per_document), (CURSOR,), generator
        )
        for i in ids
    ]
    names = [str(row["trajectory_id"]) for row in rows]
    tables = {
        "trajectory": {"trajectories": _table("trajectories", rows), "effects": _effects(names, generator)},
        "drops": {"effects": _drops(names, generator)},
        "joints": {"joint_effects": _joints(names, generator)},
        "attention": {"attention": _attention(names, generator)},
    }
    return [
        write_part(store.location, part_id=f"{kind}-{first}", kind=kind, run_id="run", tables=of_kind)
        for kind, of_kind in tables.items()
    ]


def _effects(names: list[str], generator: np.random.Generator) -> pa.Table:
    """Every 40th trajectory is windowed, with every 20th of its actions audited exactly."""
    actions = legal_actions()
    rows, cheap = [], [i % 40 == 39 for i in range(len(names))]
    for name, windowed in zip(names, cheap, strict=True):
        rows += [(name, *action, "windowed" if windowed else "exact") for action in actions]
        rows += [(name, *action, "exact") for action in actions[::20] if windowed]
    return _effect_table(rows, generator)


def _drops(names: list[str], generator: np.random.Generator) -> pa.Table:
    return _effect_table(
        [(name, "drop", *action[1:], "exact") for name in names for action in legal_actions()[::20]],
        generator,
    )


def _effect_table(rows: list[Any], generator: np.random.Generator) -> pa.Table:
    columns = dict(zip(
        ("trajectory_id", "action", "node_level", "node_index", "first_entry", "num_entries",
         "inclusion_probability", "estimator"),
        zip(*rows, strict=True), strict=True,
    ))  # fmt: skip
    # A value of its own with a heavy tail, and noise from token to token.
    means = 0.01 * generator.standard_t(2, size=(len(rows), 1)).astype(np.float32)
    values = generator.standard_normal((len(rows), HORIZON), dtype=np.float32) * np.float32(0.1) + means
    offsets = np.arange(0, values.size + 1, HORIZON, dtype=np.int32)
    level = np.array(columns["node_level"], dtype=np.uint8)
    columns["delta_nll"] = pa.ListArray.from_arrays(offsets, values.astype(np.float32).ravel())
    for name, kept in zip(
        ("cursor_delta_nll", "cursor_stderr"), cursor_means(values, CURSOR, (CURSOR,), HORIZON), strict=True
    ):
        columns[name] = pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32), kept.ravel())
    columns["entry_level"] = level - (np.array(columns["action"]) == "collapse").astype(np.uint8)
    columns["first_token"] = np.full(len(rows), CURSOR)
    columns["status"] = ["ok"] * len(rows)
    columns["estimator_window"] = [64 if name == "windowed" else None for name in columns["estimator"]]
    schema = TABLES["effects"]
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _joints(names: list[str], generator: np.random.Generator) -> pa.Table:
    actions = legal_actions()
    rows = []
    for name in names:
        for _ in range(4):
            chosen = generator.choice(len(actions) // 2, 2, replace=False)
            single = generator.standard_normal(HORIZON) * 0.1
            rows.append({
                "trajectory_id": name, "first_token": CURSOR, "status": "ok",
                "actions": [
                    dict(zip(("action", "node_level", "node_index"), actions[i], strict=False))
                    for i in chosen
                ],
                "sum_of_singles": single.astype(np.float32),
                "delta_nll": (single + generator.standard_normal(HORIZON) * 0.02).astype(np.float32),
            })  # fmt: skip
    return _table("joint_effects", rows)


def _attention(names: list[str], generator: np.random.Generator) -> pa.Table:
    rows = [
        {
            "trajectory_id": name,
            "status": "ok",
            "attention_mass": generator.random(NUM_ENTRIES, dtype=np.float32),
        }
        for name in names
    ]
    return _table("attention", rows)


def _variants(store: Store, size: Size, generator: np.random.Generator) -> Part:
    cursors = tuple(CURSOR + K * i for i in range(4))
    rows = [
        {
            **_trajectory(
                f"variant-{group:05d}-{i:02d}", _document(group % size.documents), cursors, generator
            ),
            "variant_group": f"group-{group:05d}",
            "policy": "variant_lod0" if i == 0 else "variant_random",
        }
        for group in range(size.variant_groups)
        for i in range(size.variants_per_group)
    ]
    tables = {"trajectories": _table("trajectories", rows)}
    return write_part(store.location, part_id="variants", kind="trajectory", run_id="run", tables=tables)


def _trajectory(
    name: str, document: str, cursors: tuple[int, ...], generator: np.random.Generator
) -> dict[str, Any]:
    return {
        **PROVENANCE,
        "trajectory_id": _hash(name)[:40],
        "run_id": "run",
        "document_id": document,
        "policy": "recency",
        "protected_tail": TAIL,
        "start": 0,
        "levels": LEVELS,
        "cursors": cursors,
        "horizon": HORIZON,
        "baseline_nll": generator.random(cursors[-1] - cursors[0] + HORIZON, dtype=np.float32) * 4,
        "num_legal_actions": 274,
        "num_tokens_run": 100_000,
        "seconds": 10.0,
        "baseline_status": "ok",
    }


def _document(number: int) -> str:
    return _hash(f"document-{number}")


def _hash(name: str) -> str:
    """An id as long and as incompressible as a real one."""
    return sha256(name.encode()).hexdigest()


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLES[name])
