"""From labelled snapshots to padded batches: gathering embeddings and laying targets on entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.chance import generator_for
from mctrace.context.lod_map import Entries
from mctrace.context.tree import TreeShape
from mctrace.context.working_context import gather_embeddings
from mctrace.datasets.batch import NUM_TAIL_GISTS, Batch
from mctrace.datasets.training_data import ActionLabel, LabelledSnapshot, Merge, TrainingData


class SnapshotSource(Protocol):
    """What a batch needs to know beside its snapshots: training data, or a document that is being read."""

    @property
    def utility_scale(self) -> float:
        """Nats per unit of score."""
        ...

    @property
    def tree(self) -> TreeShape: ...

    @property
    def merge(self) -> Merge: ...

    @property
    def embedding_dim(self) -> int: ...

    def tree_embeddings(self, document_id: str) -> Sequence[Tensor]:
        """Embeddings per level [num_nodes, d] of one document, tokens first."""
        ...


def ordered_batches(data: TrainingData, split: str, batch_size: int) -> Iterator[Batch]:
    """Every snapshot of the split once, in the store's order."""
    snapshots = data.snapshots(split)
    for first in range(0, len(snapshots), batch_size):
        yield make_batch(data, snapshots[first : first + batch_size])


def shuffled_batches(
    data: TrainingData, split: str, batch_size: int, *, seed: int, epoch: int
) -> Iterator[Batch]:
    """Every snapshot of the split once, in an order of this epoch's own."""
    snapshots = data.snapshots(split)
    order = generator_for("epoch", split, seed, epoch).permutation(len(snapshots))
    for first in range(0, len(order), batch_size):
        yield make_batch(data, [snapshots[i] for i in order[first : first + batch_size]])


def make_batch(data: SnapshotSource, snapshots: Sequence[LabelledSnapshot]) -> Batch:
    """One padded batch of `snapshots`; utilities are divided by the data's utility scale."""
    rows = [_Row.of(data, snapshot) for snapshot in snapshots]
    num_entries = max(len(row.entries) for row in rows)
    num_actions = max(len(row.labels) for row in rows)

    def per_action(name: str) -> list[list[float]]:
        return [[getattr(label, name) for label in row.labels] for row in rows]

    def pad(values: Sequence[npt.ArrayLike], length: int, dtype: torch.dtype, fill: float = 0) -> Tensor:
        padded = torch.full((len(rows), length), fill, dtype=dtype)
        for i, value in enumerate(values):
            array = np.asarray(value)
            padded[i, : len(array)] = torch.from_numpy(array).to(dtype)
        return padded

    context = torch.zeros(len(rows), num_entries, data.embedding_dim)
    for i, row in enumerate(rows):
        context[i, : len(row.entries)] = row.embeddings_Nd
    kinds = [[label.action.kind == "expand" for label in row.labels] for row in rows]
    scale, positions = data.utility_scale, data.tree.block_size - 1
    return Batch(
        context_embeddings=context,
        tail_gists=torch.stack([row.tail_Gd for row in rows]),
        tail_mask=torch.stack([row.tail_mask_G for row in rows]),
        entry_mask=pad([np.ones(len(row.entries)) for row in rows], num_entries, torch.bool),
        levels=pad([row.entries.level_N for row in rows], num_entries, torch.int64),
        span_width=pad([row.entries.span_width_N for row in rows], num_entries, torch.int64),
        distance_to_cursor=pad([row.distance_N for row in rows], num_entries, torch.int64),
        context_tokens=torch.tensor([s.lod_map.cursor - s.lod_map.start for s in snapshots]),
        target_utilities=pad([row.target_N / scale for row in rows], num_entries, torch.float32),
        action_mask=pad([row.weight_N > 0 for row in rows], num_entries, torch.bool),
        regression_weights=pad([row.weight_N for row in rows], num_entries, torch.float32),
        expand_action=pad([row.expand_N for row in rows], num_entries, torch.int64, -1),
        collapse_action=pad([row.collapse_N for row in rows], num_entries, torch.int64, -1),
        action_present=pad([np.ones(len(row.labels)) for row in rows], num_actions, torch.bool),
        action_is_expand=pad(kinds, num_actions, torch.bool),
        action_utilities=pad(per_action("utility"), num_actions, torch.float32) / scale,
        action_delta_nll=pad(per_action("delta_nll"), num_actions, torch.float32),
        action_stderr=pad(per_action("stderr"), num_actions, torch.float32),
        action_positions=pad([[positions] * len(row.labels) for row in rows], num_actions, torch.int64),
        action_inclusion=pad(per_action("inclusion_probability"), num_actions, torch.float32, 1),
        block_size=data.tree.block_size,
        max_level=data.tree.max_level,
        snapshot_ids=tuple(s.snapshot_id for s in snapshots),
        document_ids=tuple(s.document_id for s in snapshots),
    )


@dataclass(frozen=True)
class _Row:
    """One snapshot, not yet padded. `expand_N` and `collapse_N` index `labels`, or are -1."""

    entries: Entries
    labels: tuple[ActionLabel, ...]
    embeddings_Nd: Tensor
    tail_Gd: Tensor
    tail_mask_G: Tensor
    distance_N: npt.NDArray[np.int64]
    expand_N: npt.NDArray[np.int64]
    collapse_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.float64]
    weight_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, data: SnapshotSource, snapshot: LabelledSnapshot) -> "_Row":
        entries, tree_embeddings = snapshot.lod_map.entries, data.tree_embeddings(snapshot.document_id)
        expand_N, collapse_N = _actions_of_entries(snapshot, entries)
        utilities = np.array([label.utility for label in snapshot.labels])
        target_N, weight_N = merged_targets(expand_N, collapse_N, utilities, data.merge, data.tree.block_size)
        tail_Gd, tail_mask_G = _tail_gists(tree_embeddings, snapshot)
        return cls(
            entries,
            snapshot.labels,
            gather_embeddings(entries, tree_embeddings),
            tail_Gd,
            tail_mask_G,
            entries.distance_to_cursor_N(snapshot.lod_map.cursor),
            expand_N,
            collapse_N,
            target_N,
            weight_N,
        )


def merged_targets(
    expand_N: npt.NDArray[np.int64],
    collapse_N: npt.NDArray[np.int64],
    utilities: npt.NDArray[np.float64],
    merge: Merge,
    block_size: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The single target and regression weight of each entry [N], in the unit of `utilities`.

    "sum": max(0, u_expand) + min(0, u_collapse); "largest": the one of larger size. A collapse is copied to
    its K entries with weight 1/K, an entry whose expand was measured weighs 1, others 0.
    """
    padded = np.append(utilities, 0.0)
    expand_utility_N = np.maximum(0, padded[expand_N])
    collapse_utility_N = np.minimum(0, padded[collapse_N])
    if merge == "sum":
        target_N = expand_utility_N + collapse_utility_N
    else:
        larger_N = expand_utility_N >= -collapse_utility_N
        target_N = np.where(larger_N, expand_utility_N, collapse_utility_N)
    weight_N = np.where(expand_N >= 0, 1.0, np.where(collapse_N >= 0, 1.0 / block_size, 0.0))
    return target_N, weight_N


def _actions_of_entries(
    snapshot: LabelledSnapshot, entries: Entries
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    tree = snapshot.lod_map.tree
    expand_N = np.full(len(entries), -1, dtype=np.int64)
    collapse_N = np.full(len(entries), -1, dtype=np.int64)
    for i, label in enumerate(snapshot.labels):
        first = entries.index_of_token(tree.span(label.action.node)[0])
        if label.action.kind == "expand":
            expand_N[first] = i
        else:
            collapse_N[first : first + tree.block_size] = i
    return expand_N, collapse_N


def _tail_gists(tree_embeddings: Sequence[Tensor], snapshot: LabelledSnapshot) -> tuple[Tensor, Tensor]:
    """The latest complete LOD2 node before the cursor, then the last five complete LOD1, oldest first."""
    tree, cursor = snapshot.lod_map.tree, snapshot.lod_map.cursor
    tail_Gd = torch.zeros(NUM_TAIL_GISTS, tree_embeddings[0].shape[1])
    mask_G = torch.zeros(NUM_TAIL_GISTS, dtype=torch.bool)
    if tree.max_level >= 2 and (complete := tree.num_complete_nodes(2, cursor)):
        tail_Gd[0], mask_G[0] = tree_embeddings[2][complete - 1], True
    complete = tree.num_complete_nodes(1, cursor)
    recent = min(NUM_TAIL_GISTS - 1, complete)
    if recent:
        tail_Gd[NUM_TAIL_GISTS - recent :] = tree_embeddings[1][complete - recent : complete]
        mask_G[NUM_TAIL_GISTS - recent :] = True
    return tail_Gd, mask_G
