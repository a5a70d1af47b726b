"""Labels for the kit's comparisons: a trajectory's, fast and naive, and how far two sets of them differ."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL
from mctrace.base_model import attention_kernels
from mctrace.base_model.attention_kernels import Kernel
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_nll
from mctrace.collect.planning.edits import action_edit, no_edit
from mctrace.context.actions import Action, apply_action, is_legal_at
from mctrace.context.trajectory import Trajectory


@dataclass(frozen=True)
class TrajectoryLabels:
    """Per-token delta_nll of some actions over the horizon of the first cursor: [A, H] nats, float32, CPU."""

    delta_AH: Tensor

    @property
    def label_A(self) -> Tensor:
        return self.delta_AH.mean(dim=1)


def spread_actions(
    trajectory: Trajectory, count: int, protected_tail: int = PROTECTED_TAIL
) -> Sequence[Action]:
    """`count` actions that are legal at the first cursor, evenly over kinds and places."""
    legal = [
        action
        for action in trajectory.legal_actions(protected_tail)
        if is_legal_at(action, trajectory.head.tree, trajectory.first_cursor, protected_tail)
    ]
    chosen = np.unique(np.linspace(0, len(legal) - 1, min(count, len(legal))).round().astype(int))
    return [legal[i] for i in chosen]


def fast_labels(
    model: FrozenCausalLM,
    document: DocumentTree,
    trajectory: Trajectory,
    actions: Sequence[Action],
    batch_tokens: int | None = None,
) -> TrajectoryLabels:
    """By the evaluator."""
    edits = [action_edit(trajectory, action) for action in actions]
    baseline = measure_baseline(model, document, trajectory)
    batching = Batching(batch_tokens or model.batch_tokens)
    deltas = measure_edits(model, document, trajectory, edits, baseline, batching).deltas
    firsts = [trajectory.first_cursor - edit.first_token for edit in edits]
    horizon = trajectory.horizon
    return TrajectoryLabels(
        torch.stack(
            [delta_H[first : first + horizon] for delta_H, first in zip(deltas, firsts, strict=True)]
        ).cpu()
    )


def naive_labels(
    model: FrozenCausalLM, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> TrajectoryLabels:
    """By a whole pass per action, with the architecture's own attention."""
    snapshot, horizon = trajectory.head, trajectory.horizon
    before_H = naive_nll(model, document, snapshot, horizon)
    after = [naive_nll(model, document, apply_action(snapshot, action), horizon) for action in actions]
    return TrajectoryLabels((torch.stack(after) - before_H).cpu())


def noise_floor(
    model: FrozenCausalLM, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> dict[str, float]:
    """Largest differences of labels, nats per token, that are nothing but the order of arithmetic."""
    baseline = measure_baseline(model, document, trajectory)
    nothing = no_edit(trajectory, trajectory.head.num_entries // 2)
    (no_op_H,) = measure_edits(model, document, trajectory, [nothing], baseline, Batching(1)).deltas
    alone, together = (fast_labels(model, document, trajectory, actions, size).label_A for size in (1, 10**6))
    return {
        "no_op": float(no_op_H[:HORIZON].mean().abs()),
        "regrouped": float((alone - together).abs().max()),
    }


def difference(found: TrajectoryLabels, expected: TrajectoryLabels) -> dict[str, Any]:
    """Of labels and of single tokens, in nats; rank correlation and agreement in sign over the labels."""
    by_token = (found.delta_AH - expected.delta_AH).abs()
    by_label = (found.label_A - expected.label_A).abs()
    return {
        "num_labels": len(by_label),
        "label_max": float(by_label.max()),
        "label_mean": float(by_label.mean()),
        "token_max": float(by_token.max()),
        "token_mean": float(by_token.mean()),
        "spearman": _rank_correlation(found.label_A, expected.label_A),
        "same_sign": float((found.label_A.sign() == expected.label_A.sign()).float().mean()),
        "label_std": float(expected.label_A.std()),
    }


def _rank_correlation(a_A: Tensor, b_A: Tensor) -> float:
    ranks = torch.stack([values_A.argsort().argsort().double() for values_A in (a_A, b_A)])
    return float(torch.corrcoef(ranks)[0, 1])


@contextmanager
def watched_kernels() -> Iterator[dict[str, Any]]:
    """Counts the calls of every fused kernel while it lasts; the plain path for local and soft-capped
    attention calls none. Beside them, who refused in this process and why."""
    calls: Counter[str] = Counter()
    found: dict[str, Any] = {}
    usual = attention_kernels.kernels_for

    def watched(kernel: Kernel) -> Kernel:
        @wraps(kernel)
        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            result = kernel(*arguments)
            calls[kernel.__name__] += 1
            return result

        return call

    attention_kernels.kernels_for = lambda *kind: tuple(map(watched, usual(*kind)))
    try:
        yield found
    finally:
        attention_kernels.kernels_for = usual
        found |= {"ran": dict(calls) or {"plain": 1}, "refused": dict(attention_kernels.refusals())}
