"""Padded batches: of labelled snapshots, and of working contexts with variants to compare them with.

The fields of `Batch` are the keys of docs/specification/data.md#batch-keys. `collate` and `collate_pairs`
assemble batches from a store, `context_tensors` from live contexts.

Shapes: B snapshots, N entries (padded), A measured actions (padded), d embedding width, G tail gists, P
moves. Utilities are in score units (nats divided by `utility_scale`), so that margins and thresholds mean the
same for every base model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mctrace.context.tree import Absence

NUM_TAIL_GISTS = 6
"""The latest complete LOD2 node before the cursor, then the last five complete LOD1 nodes, oldest first."""


@dataclass(frozen=True)
class Batch:
    """Padded batch of snapshots with their labels; every tensor is on one device."""

    context_embeddings: Tensor
    """[B, N, d] the embedding by which the base model sees each entry; zero where padded"""
    tail_gists: Tensor
    """[B, G, d] conditioning gists; a missing one is zero and masked"""
    tail_mask: Tensor
    """[B, G] bool, True where the tail gist exists"""
    entry_mask: Tensor
    """[B, N] bool, True where the entry exists (False is padding)"""
    levels: Tensor
    """[B, N] int64, level of the entry; 0 where padded"""
    span_width: Tensor
    """[B, N] int64, tokens the entry stands for; 0 where padded"""
    distance_to_cursor: Tensor
    """[B, N] int64, tokens from the entry's end to the cursor; 0 where padded"""
    context_tokens: Tensor
    """[B] int64, tokens from the context's start to its cursor"""
    can_expand: Tensor
    """[B, N] bool, True where expanding the entry is legal"""
    can_collapse: Tensor
    """[B, N] bool, True where a legal collapse takes the entry; its K entries stand side by side"""
    target_utilities: Tensor
    """[B, N] the single target of each entry, score units; 0 where not measured"""
    action_mask: Tensor
    """[B, N] bool, True where at least one action on the entry was measured"""
    regression_weights: Tensor
    """[B, N] 1 where an expand was measured, 1/K where only a collapse shared by K entries was, else 0"""
    expand_action: Tensor
    """[B, N] int64, index into A of the expand measured for this entry, or -1"""
    collapse_action: Tensor
    """[B, N] int64, index into A of the measured collapse that includes this entry, or -1"""
    action_present: Tensor
    """[B, A] bool, True where the action exists (False is padding)"""
    action_is_expand: Tensor
    """[B, A] bool"""
    action_utilities: Tensor
    """[B, A] signed target of the action, score units; `signed` ones have expand >= 0, collapse <= 0"""
    action_delta_nll: Tensor
    """[B, A] the measured label behind it, nats per token, unclipped"""
    action_stderr: Tensor
    """[B, A] standard error of the label over its horizon's tokens, nats per token"""
    action_positions: Tensor
    """[B, A] int64, positions an expand costs or a collapse frees; positive"""
    action_inclusion: Tensor
    """[B, A] probability with which the action was sampled for measurement; 1 where padded"""
    block_size: int
    """K, children per node"""
    max_level: int
    """the coarsest level, which cannot collapse"""
    snapshot_ids: tuple[str, ...]
    document_ids: tuple[str, ...]
    utility_scale: float = 1.0
    """nats per token that make one unit of score"""
    signed: bool = True
    """whether utilities are >= 0 for expands and <= 0 for collapses; else they are values of detail"""
    absence: Absence = "off"
    """whether blocks may be absent, and as what they are inserted. Absent ones are entries too, of zero
    width, with the embedding of their gist and the level `max_level` + 1"""
    can_drop: Tensor | None = None
    """[B, N] bool, True where a legal drop takes the entry; None where blocks cannot be absent"""
    drop_action: Tensor | None = None
    """[B, N] int64, index into A of the measured drop that includes this entry, or -1; None for no drops"""
    action_entries: Tensor | None = None
    """[B, A] int64, entries that the action replaces; None for 1 of an expand and K of a collapse"""
    gist_positions: int = 1
    """positions that a gist takes"""
    entry_attention: Tensor | None = None
    """[B, N] the base model's attention to each entry, NaN where it was not kept; None where not asked for"""
    word_matches: Tensor | None = None
    """[B, N, F] how well each entry matches what was read last by token ids (`context/word_matches.py`), F =
    `NUM_WORD_MATCHES`; 0 where padded, None where not asked for"""

    @property
    def coarsest(self) -> int:
        """The level that cannot be shown with less: `max_level`, or the absent one above it."""
        return self.max_level + (self.absence != "off")

    @property
    def num_positions(self) -> Tensor:
        """[B] int64, positions that each context takes: its entries without the absent ones."""
        shown_BN = self.entry_mask & (self.levels <= self.max_level)
        return (shown_BN * self.entry_positions).sum(dim=1)

    @property
    def entry_positions(self) -> Tensor:
        """[B, N] int64, positions that an entry takes where it is shown: 1, of a gist `gist_positions`."""
        return torch.where(self.levels == 0, 1, self.gist_positions)

    @property
    def expand_positions(self) -> Tensor:
        """[B, N] int64, positions that showing a gist's children adds; K - 1 where a gist takes one."""
        per_child_BN = torch.where(self.levels <= 1, 1, self.gist_positions)
        return self.block_size * per_child_BN - self.gist_positions

    @property
    def collapse_positions(self) -> Tensor:
        """[B, N] int64, positions that an entry and its siblings free as one gist; K - 1 likewise."""
        return self.block_size * self.entry_positions - self.gist_positions

    @property
    def insert_positions(self) -> int:
        """Positions that inserting an absent block adds: K tokens, or one gist."""
        return self.gist_positions if self.absence == "gist" else self.block_size

    def to(self, device: torch.device | str) -> "Batch":
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        return self.levels.shape[0]


def scores_of_actions(scores_BN: Tensor, batch: Batch, collapse_scores_BN: Tensor | None = None) -> Tensor:
    """Score of each action [B, A]: an expand's own entry, a collapse's mean over its group of entries.

    Collapses are scored by `collapse_scores_BN` where entries have a score for each direction.
    The focus allocator aggregates by the same mean, so ranking and correlation see what it sees. Zero where
    padded. Gradients flow to `scores_BN`. Gathers instead of scattering: an entry belongs to at most two
    actions, so the sums of the backward pass are the same in any order, on any device.
    """
    entry_BAK, present_BAK = _entries_of_actions(batch)
    num_rows, num_actions, size = entry_BAK.shape
    count_BA = present_BAK.sum(dim=2).clamp(min=1)

    def mean_of(found_BN: Tensor) -> Tensor:
        gathered_BAK = found_BN.gather(1, entry_BAK.view(num_rows, -1)).view(num_rows, num_actions, size)
        return (gathered_BAK * present_BAK).sum(dim=2) / count_BA

    if collapse_scores_BN is None:
        return mean_of(scores_BN)
    return torch.where(batch.action_is_expand, mean_of(scores_BN), mean_of(collapse_scores_BN))


def _entries_of_actions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Entries that each action acts on [B, A, K], and a mask of the places in use: an expand uses one."""
    num_rows, num_entries = batch.levels.shape
    num_actions = batch.action_present.shape[1]
    device = batch.levels.device
    number_BN = torch.arange(num_entries, device=device).expand(num_rows, -1)
    first_BA = torch.full((num_rows, num_actions + 1), num_entries, device=device)
    for index_BN in (batch.expand_action, batch.collapse_action, batch.drop_action):
        if index_BN is None:
            continue
        slot_BN = torch.where(index_BN >= 0, index_BN, num_actions)
        first_BA = first_BA.scatter_reduce(1, slot_BN, number_BN, "amin")
    offset_K = torch.arange(batch.block_size, device=device)
    entry_BAK = first_BA[:, :num_actions, None] + offset_K
    used_BAK = (offset_K == 0) | ~batch.action_is_expand[:, :, None]
    if batch.action_entries is not None:
        used_BAK = offset_K < batch.action_entries[:, :, None]
    present_BAK = used_BAK & batch.action_present[:, :, None] & (entry_BAK < num_entries)
    return entry_BAK.clamp(max=num_entries - 1), present_BAK


@dataclass(frozen=True)
class PairBatch:
    """Padded batch of working contexts, and moves from them to other variants; all on one device."""

    contexts: Batch
    """one row per variant at which a move begins, without labels"""
    row: Tensor
    """[P] int64, the row of `contexts` at which each move begins"""
    direction: Tensor
    """[P, N] 1 where the other variant shows more detail than the entry, -1 where less, 0 where as much"""
    from_adv_delta: Tensor
    """[P] loss of the variant at which the move begins, less the baseline's, nats per token"""
    to_adv_delta: Tensor
    """[P] the same for the variant to which it leads"""
    groups: tuple[str, ...]
    """P, the group of each move"""
    evaluated: Mapping[str, Mapping[str, float]]
    """group -> snapshot id -> adv_delta of every variant of it that was evaluated, moves or not"""
    every_move: "PairBatch | None" = None
    """moves from the same contexts to all other variants of their groups, better or worse, for telemetry"""

    @property
    def change(self) -> Tensor:
        """Change of the loss by each move [P], nats per token; negative is better."""
        return self.to_adv_delta - self.from_adv_delta

    def to(self, device: torch.device | str) -> "PairBatch":
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        every_move = self.every_move.to(device) if self.every_move else None
        return replace(self, contexts=self.contexts.to(device), every_move=every_move, **moved)

    def __len__(self) -> int:
        return self.row.shape[0]
