"""Random legal batches: K = 4 and max_level = 2, with padding, all levels and missing gists."""

from dataclasses import fields
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from mctrace.context.word_matches import NUM_WORD_MATCHES
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch

BLOCK_SIZE = 4
MAX_LEVEL = 2
EMBEDDING_DIM = 12

Entry = tuple[int, int]
"""(level, index of the node)"""


class MakeBatch(Protocol):
    def __call__(
        self,
        seed: int = 0,
        *,
        num_snapshots: int = 3,
        num_spans: int = 5,
        measured: float = 0.8,
        one_action_per_entry: bool = False,
        tail_gists: bool = True,
    ) -> Batch: ...


@pytest.fixture
def make_batch() -> MakeBatch:
    return random_batch


def random_batch(
    seed: int = 0,
    *,
    num_snapshots: int = 3,
    num_spans: int = 5,
    measured: float = 0.8,
    one_action_per_entry: bool = False,
    tail_gists: bool = True,
) -> Batch:
    """Snapshots of up to `num_spans` level-2 spans each; a share `measured` of the legal actions has a label.

    With `one_action_per_entry` no gist is asked to expand and to collapse at once, which one score per entry
    cannot always satisfy.
    """
    rng = np.random.default_rng(seed)
    snapshots = []
    for row in range(num_snapshots):
        entries = _entries(rng, num_spans if row == 0 else int(rng.integers(1, num_spans + 1)))
        actions = [action for action in _actions(entries) if rng.random() < measured]
        if one_action_per_entry:
            actions = _without_shared_entries(actions)
        snapshots.append(_snapshot(rng, row, entries, actions, tail_gists))
    return collate(snapshots)


def _entries(rng: np.random.Generator, num_spans: int) -> list[Entry]:
    """A gap-free context: each level-2 span is one gist, or blocks that are each a gist or tokens."""
    entries: list[Entry] = []
    for span in range(num_spans):
        if rng.random() < 0.3:
            entries.append((2, span))
            continue
        same = rng.random() < 0.3  # so that all siblings are often level-1 gists
        for block in range(span * BLOCK_SIZE, (span + 1) * BLOCK_SIZE):
            if same or rng.random() < 0.5:
                entries.append((1, block))
            else:
                entries += [(0, block * BLOCK_SIZE + token) for token in range(BLOCK_SIZE)]
    return entries


def _actions(entries: list[Entry]) -> list[tuple[bool, list[int]]]:
    """(is an expand, indices of the entries concerned) of every legal action."""
    found = [(True, [i]) for i, (level, _) in enumerate(entries) if level >= 1]
    groups: dict[Entry, list[int]] = {}
    for i, (level, index) in enumerate(entries):
        groups.setdefault((level + 1, index // BLOCK_SIZE), []).append(i)
    return found + [
        (False, g) for (level, _), g in groups.items() if level <= MAX_LEVEL and len(g) == BLOCK_SIZE
    ]


def _without_shared_entries(actions: list[tuple[bool, list[int]]]) -> list[tuple[bool, list[int]]]:
    collapsing = {i for is_expand, group in actions if not is_expand for i in group}
    return [(is_expand, group) for is_expand, group in actions if not (is_expand and group[0] in collapsing)]


def _snapshot(
    rng: np.random.Generator,
    row: int,
    entries: list[Entry],
    actions: list[tuple[bool, list[int]]],
    tail_gists: bool,
) -> dict[str, Tensor]:
    num_entries, num_actions = len(entries), len(actions)
    levels = np.array([level for level, _ in entries])
    widths = BLOCK_SIZE**levels
    is_expand = np.array([is_expand for is_expand, _ in actions], dtype=bool)
    sizes = np.abs(rng.normal(size=num_actions)) * (rng.random(num_actions) < 0.8)
    utilities = np.where(is_expand, sizes, -sizes)
    expand_action, collapse_action = np.full(num_entries, -1), np.full(num_entries, -1)
    target, weights = np.zeros(num_entries), np.zeros(num_entries)
    for a, (expands, group) in enumerate(actions):
        (expand_action if expands else collapse_action)[group] = a
        target[group] += utilities[a]
        weights[group] = np.maximum(weights[group], 1 if expands else 1 / BLOCK_SIZE)
    can_collapse = np.zeros(num_entries, dtype=bool)
    for is_legal_expand, group in _actions(entries):
        if not is_legal_expand:
            can_collapse[group] = True
    tail_present = (rng.random(NUM_TAIL_GISTS) < 0.7) & tail_gists
    arrays = {
        "context_embeddings": rng.normal(size=(num_entries, EMBEDDING_DIM)) * 0.03,
        "tail_gists": rng.normal(size=(NUM_TAIL_GISTS, EMBEDDING_DIM)) * tail_present[:, None],
        "tail_mask": tail_present,
        "entry_mask": np.ones(num_entries, dtype=bool),
        "levels": levels,
        "span_width": widths,
        "distance_to_cursor": widths.sum() - np.cumsum(widths),
        "context_tokens": widths.sum(),
        "can_expand": levels >= 1,
        "can_collapse": can_collapse,
        "target_utilities": target,
        "action_mask": weights > 0,
        "regression_weights": weights,
        "expand_action": expand_action,
        "collapse_action": collapse_action,
        "action_present": np.ones(num_actions, dtype=bool),
        "action_is_expand": is_expand,
        "action_utilities": utilities,
        "action_delta_nll": -np.abs(utilities) + 0.1 * rng.normal(size=num_actions),
        "action_stderr": np.full(num_actions, 0.01),
        "action_positions": np.full(num_actions, BLOCK_SIZE - 1),
        "action_inclusion": np.ones(num_actions),
        "word_matches": _word_matches(row, num_entries),
    }
    return {name: _tensor(array) for name, array in arrays.items()}


def _word_matches(row: int, num_entries: int) -> np.ndarray:
    """Mostly 0, as few entries share a rare token with what was read last."""
    rng = np.random.default_rng(row)
    shape = (num_entries, NUM_WORD_MATCHES)
    return rng.exponential(4.0, shape) * (rng.random(shape) < 0.3)


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.as_tensor(array)
    return tensor.float() if tensor.is_floating_point() else tensor


def collate(snapshots: list[dict[str, Tensor]]) -> Batch:
    """Pad to the longest snapshot and stack, as `datasets/batches` does."""
    padding = {"expand_action": -1, "collapse_action": -1, "action_inclusion": 1}
    stacked = {}
    for name in snapshots[0]:
        rows = [snapshot[name] for snapshot in snapshots]
        longest = max(row.shape[0] if row.ndim else 0 for row in rows)
        stacked[name] = torch.stack([pad_to(row, longest, padding.get(name, 0)) for row in rows])
    names = tuple(f"snapshot-{row}" for row in range(len(snapshots)))
    documents = tuple(f"document-{row // 2}" for row in range(len(snapshots)))
    return Batch(
        **stacked,
        block_size=BLOCK_SIZE,
        max_level=MAX_LEVEL,
        snapshot_ids=names,
        document_ids=documents,
    )


def pad_to(row: Tensor, length: int, value: float) -> Tensor:
    if not row.ndim:
        return row
    return torch.cat([row, row.new_full((length - row.shape[0], *row.shape[1:]), value)])


@pytest.fixture
def split_batch():
    return snapshots_of


def snapshots_of(batch: Batch) -> list[Batch]:
    """Each snapshot as a batch of its own, without any padding of entries or actions."""
    return [_unpadded(batch, row) for row in range(len(batch))]


def _unpadded(batch: Batch, row: int) -> Batch:
    entries, actions = int(batch.entry_mask[row].sum()), int(batch.action_present[row].sum())
    by_entry = {"context_embeddings", "entry_mask", "levels", "span_width", "distance_to_cursor"}
    by_entry |= {"can_expand", "can_collapse", "word_matches"}
    by_entry |= {"target_utilities", "action_mask", "regression_weights", "expand_action", "collapse_action"}
    kept = {}
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value = value[row : row + 1]
            if field.name in by_entry:
                value = value[:, :entries]
            elif field.name.startswith("action_"):
                value = value[:, :actions]
        elif isinstance(value, tuple):
            value = value[row : row + 1]
        kept[field.name] = value
    return Batch(**kept)
