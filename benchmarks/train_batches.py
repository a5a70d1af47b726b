"""Batches as large as deployment's, made up in memory: what a LensNet is timed on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch

TREE = TreeShape()


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
        can_expand=(levels_N >= 1).expand(by_row).clone(),
        can_collapse=(collapse_N >= 0).expand(by_row).clone(),
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
