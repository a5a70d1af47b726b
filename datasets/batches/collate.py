"""Assembly of padded batches from labelled snapshots: gathers embeddings, assigns targets to entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.tree import ABSENT, TreeShape
from mctrace.datasets.batches.context_tensors import (
    LengthRule,
    context_tensors,
    exact_length,
    padded,
)
from mctrace.datasets.batches.label_files import LabelledSnapshot, Labels
from mctrace.datasets.batches.label_reader import TrainingData
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.datasets.sql.target_merging import Merge, merged_targets
from mctrace.seeding import generator_for


def ordered_batches(
    data: TrainingData, split: str, batch_size: int, *, match_words: bool = False
) -> Iterator[Batch]:
    """Every snapshot of the split once, in the store's order."""
    snapshots = data.snapshots(split)
    for first in range(0, len(snapshots), batch_size):
        yield make_batch(data, snapshots[first : first + batch_size], match_words=match_words)


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


def make_batch(
    data: TrainingData,
    snapshots: Sequence[LabelledSnapshot],
    length_rule: LengthRule = exact_length,
    *,
    match_words: bool = False,
) -> Batch:
    """Padded batch of `snapshots`; utilities are divided by the data's utility scale.

    With `match_words` it has the word matches of each entry.
    """
    snapshots = list(snapshots)  # each is read once
    maps = [snapshot.lod_map for snapshot in snapshots]
    inputs = context_tensors(
        [
            data.arrays.document(snapshot.document_id, snapshot.head.provenance).context(
                lod_map, snapshot.head.protected_tail
            )
            for lod_map, snapshot in zip(maps, snapshots, strict=True)
        ],
        data.absence,
        length_rule,
        match_words=match_words,
    )
    rows = [
        _Row.of(snapshot.labels, lod_map.nodes, lod_map.tree, data.merge)
        for lod_map, snapshot in zip(maps, snapshots, strict=True)
    ]
    num_entries = inputs["levels"].shape[1]
    num_actions = max(len(snapshot.labels) for snapshot in snapshots)
    block_size, scale, with_absence = data.provenance.block_size, data.utility_scale, data.absence != "off"

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
            [s.labels.positions(s.head.tree) for s in snapshots], num_actions, torch.int64
        ),
        action_inclusion=of_actions("inclusion_probability", fill=1),
        block_size=block_size,
        max_level=data.provenance.max_level,
        snapshot_ids=tuple(s.snapshot_id for s in snapshots),
        document_ids=tuple(s.document_id for s in snapshots),
        utility_scale=scale,
        signed=data.target.signed,
        absence=data.absence,
        drop_action=of_entries("drop_N", torch.int64, -1) if with_absence else None,
        action_entries=padded(
            [s.labels.num_entries(block_size) for s in snapshots], num_actions, torch.int64, 1
        )
        if with_absence
        else None,
        gist_positions=data.provenance.gist_positions,
        entry_attention=_attention(snapshots, maps, num_entries),
    )


def _attention(
    snapshots: Sequence[LabelledSnapshot], maps: Sequence[LODMap], num_entries: int
) -> Tensor | None:
    """Attention [B, N], NaN where a snapshot has none and for absent blocks; None without any snapshot's."""
    found = [snapshot.attention_N for snapshot in snapshots]
    if all(attention_N is None for attention_N in found):
        return None
    rows = []
    for attention_N, lod_map in zip(found, maps, strict=True):
        row_N = np.full(len(lod_map.nodes), np.nan)
        row_N[lod_map.nodes.level_N != ABSENT] = np.nan if attention_N is None else attention_N
        rows.append(row_N)
    return padded(rows, num_entries, torch.float32, float("nan"))


@dataclass(frozen=True)
class _Row:
    """Targets of one snapshot's nodes [N]; `expand_N`, `collapse_N` and `drop_N` index its labels."""

    expand_N: npt.NDArray[np.int64]
    collapse_N: npt.NDArray[np.int64]
    drop_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.float64]
    weight_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, labels: Labels, entries: Entries, tree: TreeShape, merge: Merge) -> "_Row":
        expand_N, collapse_N, drop_N = actions_of_entries(labels, entries, tree)
        target_N, weight_N = merged_targets(
            expand_N, collapse_N, labels.utility, merge, tree.block_size, (drop_N, entries.level_N)
        )
        return cls(expand_N, collapse_N, drop_N, target_N, weight_N)


def actions_of_entries(
    labels: Labels, entries: Entries, tree: TreeShape
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index among labels, -1 for none, of each entry's expand or insert [N], of the collapse that includes it
    [N], and of the drop that does [N]."""
    first_token_A = labels.node_index * tree.block_size**labels.node_level
    first_A = np.searchsorted(entries.first_token_N, first_token_A)
    assert (entries.first_token_N[first_A] == first_token_A).all(), "a label's node starts between entries"
    num_entries_A = labels.num_entries(tree.block_size)

    def of(chosen_A: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        numbers, count = np.flatnonzero(chosen_A), num_entries_A[chosen_A]
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        action_N = np.full(len(entries), -1, dtype=np.int64)
        action_N[np.repeat(first_A[chosen_A], count) + offset] = np.repeat(numbers, count)
        return action_N

    shows_less_A = ~labels.is_expand
    return of(labels.is_expand), of(shows_less_A & ~labels.is_absence), of(shows_less_A & labels.is_absence)
