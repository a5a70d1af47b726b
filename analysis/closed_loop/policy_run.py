"""The closed loop on one document: a policy edits the working context, the model's loss measures the effect.

Every K tokens the policy refocuses; then the frozen model reads what follows. Every policy starts from the
same recency map, sees the same tokens at the same places and keeps to the same budget: after a refocus the
context has K positions left, so that with the tokens until the next one it never exceeds `w_max`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop
from mctrace.analysis.closed_loop.policies import Observation, Policy
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.context.allocator import Allocation, RecentEdits
from mctrace.context.lod_map import LODMap
from mctrace.context.refocus import refocus_steps
from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError


@dataclass(frozen=True)
class RefocusRecord:
    """One step of one policy. Losses are means in nats per token."""

    cursor: int
    num_edits: int
    num_forced: int
    """edits that the budget demanded"""
    num_entries: int
    """positions after the edits"""
    kept: float | None
    """share of the blocks shown as tokens before, the protected tail left out, that still are"""
    nll: float
    """of the K tokens until the next refocus"""
    nll_horizon: float
    """of the H tokens after this one"""
    seconds: float
    """spent in policy and allocator"""


def run_policy(
    policy: Policy,
    reader: ContextReader,
    document_id: str,
    loop: Loop,
    tree: TreeShape,
    config: ClosedLoopConfig,
    protected_tail: int,
    batching: Batching,
) -> list[RefocusRecord]:
    """Every refocus of the reader's document under one policy.

    Raises ModelError when the model's loss is not finite, as in a dtype too narrow for it.
    """
    records: list[RefocusRecord] = []
    for before, allocation, seconds in refocused(
        policy, reader, document_id, loop, tree, config, protected_tail, batching
    ):
        nll_H = reader.nll(allocation.lod_map, config.horizon)
        if not torch.isfinite(nll_H).all():
            raise ModelError(f"the loss after token {before.cursor} is not finite: try model.dtype = float32")
        records.append(
            RefocusRecord(
                cursor=before.cursor,
                num_edits=len(allocation.edits),
                num_forced=allocation.num_forced,
                num_entries=allocation.lod_map.num_entries,
                kept=_share_kept(before, allocation.lod_map, protected_tail),
                nll=_mean(nll_H[: tree.block_size]),
                nll_horizon=_mean(nll_H),
                seconds=seconds,
            )
        )
    return records


def refocused(
    policy: Policy,
    reader: ContextReader,
    document_id: str,
    loop: Loop,
    tree: TreeShape,
    config: ClosedLoopConfig,
    protected_tail: int,
    batching: Batching,
) -> Iterator[tuple[LODMap, Allocation, float]]:
    """(map before, allocation, seconds that the policy took) of every refocus; nothing is read.

    Lazy: a refocus happens when it is asked for.
    """
    budget = config.w_max - tree.block_size
    seconds = 0.0

    def refocus(lod_map: LODMap, recent: RecentEdits) -> Allocation:
        nonlocal seconds
        observation = Observation(
            document_id, reader.document, reader, lod_map, budget, protected_tail, recent, batching,
            config.seed,
        )  # fmt: skip
        started = time.perf_counter()
        allocation = policy.refocus(observation)
        seconds = time.perf_counter() - started
        return allocation

    before_first = loop.first_cursor - tree.block_size
    head = recency_map_within(tree, loop.start, before_first, budget, protected_tail)
    for before, allocation in refocus_steps(head, loop.cursors[-1], refocus):
        yield before, allocation, seconds


def _mean(nll_H: Tensor) -> float:
    return float(nll_H.double().mean())


def _share_kept(before: LODMap, after: LODMap, protected_tail: int) -> float | None:
    """Share of the old blocks shown as tokens that are still shown as tokens afterwards."""
    num_old = max(0, (before.cursor - protected_tail - before.start) // before.tree.block_size)
    fine = np.flatnonzero(before.levels[:num_old] == 0) + before.first_block - after.first_block
    if not len(fine):
        return None
    inside = fine[fine >= 0]
    return float((after.levels[inside] == 0).sum() / len(fine))
