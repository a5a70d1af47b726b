"""Assembly of padded batches from labelled snapshots: gathers embeddings, assigns targets to entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.lod_map import Entries
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context, context_tensors, padded
from mctrace.datasets.batches.label_reader import LabelledSnapshot, Labels, TrainingData
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.datasets.sql.target_merging import Merge, merged_targets
from mctrace.seeding import generator_for


def ordered_batches(data: TrainingData, split: str, batch_size: int) -> Iterator[Batch]:
    """Every snapshot of the split once, in the store's order."""
    snapshots = data.snapshots(split)
    for first in range(0, len(snapshots), batch_size):
        yield make_batch(data, snapshots[first : first + batch_size])


def shuffled_batches(
    data: TrainingData, split: str, batch_size: int, *, seed: int, epoch: int
) -> Iterator[Batch]:
    """Every snapshot of the split once, in an order that depends on seed and epoch."""
    snapshots = data.snapshots(split)
    for chosen in shuffled_order(len(snapshots), batch_size, split=split, seed=seed, epoch=epoch):
        yield make_batch(data, [snapshots[i] for i in chosen])


def shuffled_order(
    num_items: int, batch_size: int, *, split: str, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """Indices of the items of each batch of an epoch, the last one perhaps smaller; reads nothing."""
    order = generator_for("epoch", split, seed, epoch).permutation(num_items)
    return [order[first : first + batch_size] for first in range(0, num_items, batch_size)]


def make_batch(data: TrainingData, snapshots: Sequence[LabelledSnapshot]) -> Batch:
    """Padded batch of `snapshots`; utilities are divided by the data's utility scale."""
    maps = [snapshot.lod_map for snapshot in snapshots]
    inputs = context_tensors(
        [
            Context(
                lod_map,
                data.arrays.document(snapshot.document_id, snapshot.head.provenance),
                snapshot.head.protected_tail,
            )
            for lod_map, snapshot in zip(maps, snapshots, strict=True)
        ]
    )
    rows = [
        _Row.of(snapshot.labels, lod_map.entries, lod_map.tree, data.merge)
        for lod_map, snapshot in zip(maps, snapshots, strict=True)
    ]
    num_entries = inputs["levels"].shape[1]
    num_actions = max(len(snapshot.labels) for snapshot in snapshots)
    positions, scale = data.provenance.block_size - 1, data.utility_scale

    def of_entries(name: str, dtype: torch.dtype, fill: float = 0) -> Tensor:
        return padded([getattr(row, name) for row in rows], num_entries, dtype, fill)

    def of_actions(name: str, dtype: torch.dtype = torch.float32, fill: float = 0) -> Tensor:
        return padded([getattr(s.labels, name) for s in snapshots], num_actions, dtype, fill)

    return Batch(
        **inputs,
        target_utilities=of_entries("target_N", torch.float32) / scale,
        action_mask=of_entries("weight_N", torch.float32) > 0,
        regression_weights=of_entries("weight_N", torch.float32),
        expand_action=of_entries("expand_N", torch.int64, -1),
        collapse_action=of_entries("collapse_N", torch.int64, -1),
        action_present=padded([np.ones(len(s.labels)) for s in snapshots], num_actions, torch.bool),
        action_is_expand=of_actions("is_expand", torch.bool),
        action_utilities=of_actions("utility") / scale,
        action_delta_nll=of_actions("delta_nll"),
        action_stderr=of_actions("stderr"),
        action_positions=padded(
            [np.full(len(s.labels), positions) for s in snapshots], num_actions, torch.int64
        ),
        action_inclusion=of_actions("inclusion_probability", fill=1),
        block_size=data.provenance.block_size,
        max_level=data.provenance.max_level,
        snapshot_ids=tuple(s.snapshot_id for s in snapshots),
        document_ids=tuple(s.document_id for s in snapshots),
        utility_scale=scale,
        signed=data.target.signed,
        entry_attention=_attention(snapshots, [len(lod_map.entries) for lod_map in maps], num_entries),
    )


def _attention(
    snapshots: Sequence[LabelledSnapshot], lengths: Sequence[int], num_entries: int
) -> Tensor | None:
    """Attention [B, N], NaN where a snapshot has none; None where no snapshot has any."""
    found = [snapshot.attention_N for snapshot in snapshots]
    if all(attention_N is None for attention_N in found):
        return None
    rows = [
        np.full(length, np.nan) if attention_N is None else attention_N
        for attention_N, length in zip(found, lengths, strict=True)
    ]
    return padded(rows, num_entries, torch.float32, float("nan"))


@dataclass(frozen=True)
class _Row:
    """Targets of one snapshot's entries [N]; `expand_N` and `collapse_N` index its labels."""

    expand_N: npt.NDArray[np.int64]
    collapse_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.float64]
    weight_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, labels: Labels, entries: Entries, tree: TreeShape, merge: Merge) -> "_Row":
        expand_N, collapse_N = actions_of_entries(labels, entries, tree)
        target_N, weight_N = merged_targets(expand_N, collapse_N, labels.utility, merge, tree.block_size)
        return cls(expand_N, collapse_N, target_N, weight_N)


def actions_of_entries(
    labels: Labels, entries: Entries, tree: TreeShape
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index of each entry's expand [N] and of the collapse that includes it [N] among labels; -1 for none."""
    expand_N = np.full(len(entries), -1, dtype=np.int64)
    collapse_N = np.full(len(entries), -1, dtype=np.int64)
    first_token_A = labels.node_index * tree.block_size**labels.node_level
    first_A = np.searchsorted(entries.first_token_N, first_token_A)
    assert (entries.first_token_N[first_A] == first_token_A).all(), "a label's node starts between entries"
    number_A = np.arange(len(labels))
    expand_N[first_A[labels.is_expand]] = number_A[labels.is_expand]
    collapse_A = ~labels.is_expand
    group_AK = first_A[collapse_A, None] + np.arange(tree.block_size)
    collapse_N[group_AK] = number_A[collapse_A, None]
    return expand_N, collapse_N
