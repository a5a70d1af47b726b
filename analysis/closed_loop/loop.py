"""The closed loop: a document streams by, a policy edits the working context, the model's loss counts.

Every K tokens the policy refocuses; then the frozen model reads what follows. Every policy starts from the
same recency map, sees the same tokens at the same places and keeps to the same budget: after a refocus the
context has K positions left, so that with the tokens until the next one it never exceeds `w_max`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.policies import Observation, Policy
from mctrace.analysis.closed_loop.reader import Reader
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.collect.planning.trajectories import window_start
from mctrace.context.allocator import Allocation, RecentEdits
from mctrace.context.lod_map import LODMap
from mctrace.context.refocus import refocus_steps
from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError


@dataclass(frozen=True)
class Refocus:
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
    """that the policy and the allocator took"""


@dataclass(frozen=True)
class Loop:
    """Where a document is read: its first refocus, and the token at which every context begins."""

    start: int
    first_cursor: int
    num_refocuses: int
    block_size: int

    @property
    def cursors(self) -> range:
        end = self.first_cursor + self.num_refocuses * self.block_size
        return range(self.first_cursor, end, self.block_size)


def place_loop(num_tokens: int, config: ClosedLoopConfig, tree: TreeShape) -> Loop | None:
    """The last refocuses of a document that leave a whole horizon; None when it is so short that everything
    would fit the budget."""
    block = tree.block_size
    latest = (num_tokens - config.horizon) // block * block
    first = latest - (config.refocuses - 1) * block
    start = window_start(first, config.window, tree)
    return Loop(start, first, config.refocuses, block) if first - start > config.w_max else None


def run_policy(
    policy: Policy,
    model: EvaluatedModel,
    document_id: str,
    document: DocumentTree,
    loop: Loop,
    tree: TreeShape,
    config: ClosedLoopConfig,
    protected_tail: int,
    batching: Batching,
) -> list[Refocus]:
    """Every refocus of one document under one policy.

    Raises ModelError when the model's loss is not finite, as in a dtype too narrow for it.
    """
    budget = config.w_max - tree.block_size
    reader = Reader(model, document)
    seconds = 0.0

    def refocus(lod_map: LODMap, recent: RecentEdits) -> Allocation:
        nonlocal seconds
        view = Observation(
            document_id, document, reader, lod_map, budget, protected_tail, recent, batching, config.seed
        )
        started = time.perf_counter()
        allocation = policy.refocus(view)
        seconds = time.perf_counter() - started
        return allocation

    before_first = loop.first_cursor - tree.block_size
    head = recency_map_within(tree, loop.start, before_first, budget, protected_tail)
    steps: list[Refocus] = []
    for before, done in refocus_steps(head, loop.cursors[-1], refocus):
        nll_H = reader.read(done.lod_map, config.horizon).nll_H
        if not torch.isfinite(nll_H).all():
            raise ModelError(f"the loss after token {before.cursor} is not finite: try model.dtype = float32")
        steps.append(
            Refocus(
                before.cursor,
                len(done.edits),
                done.num_forced,
                done.lod_map.num_entries,
                _share_kept(before, done.lod_map, protected_tail),
                _mean(nll_H[: tree.block_size]),
                _mean(nll_H),
                seconds,
            )
        )
    return steps


def as_row(
    key: str, document_id: str, source: str, policy: str, steps: list[Refocus]
) -> Mapping[str, object]:
    """One document under one policy as one JSON object; `key` says under which conditions."""
    return {
        "key": key,
        "document_id": document_id,
        "source": source,
        "policy": policy,
        "refocuses": [asdict(step) for step in steps],
    }


def _mean(nll_H: Tensor) -> float:
    return float(nll_H.double().mean())


def _share_kept(before: LODMap, after: LODMap, protected_tail: int) -> float | None:
    """Of the old blocks shown as tokens, those that are shown as tokens afterwards."""
    num_old = max(0, (before.cursor - protected_tail - before.start) // before.tree.block_size)
    fine = np.flatnonzero(before.levels[:num_old] == 0) + before.first_block - after.first_block
    if not len(fine):
        return None
    inside = fine[fine >= 0]
    return float((after.levels[inside] == 0).sum() / len(fine))
