"""Labels per second of a 1B Llama in bfloat16: against naive, and as a share of the device's matrix rate."""

import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.evaluator_cases import PROTECTED_TAIL, Case
from benchmarks.evaluator_methods import Bench, flops_of, naive_label, snapshots_of, work_of
from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import (
    difference,
    fast_labels,
    naive_labels,
    noise_floor,
    spread_actions,
    watched_kernels,
)
from benchmarks.gpu_kit.llama import make_bench, make_document
from benchmarks.gpu_kit.timing import peak_bytes, reset_peak, wall_seconds
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.collect.planning.forward_passes import plan_passes


def run(context: StepContext) -> None:
    bench = make_bench(context)
    context.say(
        "model", parameters=sum(p.numel() for p in bench.model.network.parameters()),
        matmul_flops_per_s=bench.gemm_flops, shapes=bench.shapes, batch_tokens=bench.model.batch_tokens,
    )  # fmt: skip
    first, *others = context.sizes.cursors
    level0, recency = ("level0", context.sizes.context), ("recency", context.sizes.recency_tokens)
    for (name, num_tokens), num_cursors in (
        (level0, first), (recency, first), *((level0, number) for number in others), (recency, others[-1]),
    ):  # fmt: skip
        case = Case(name, num_tokens, num_cursors)
        context.say("speed", map=case.map, N=num_tokens, R=num_cursors, **_speed(context, bench, case))
    case = Case("level0", context.sizes.label_context, 2)
    trajectory, document = case.trajectory(), make_document(context, bench.model, case)
    actions = spread_actions(trajectory, 12)
    with watched_kernels() as attention:
        fast = fast_labels(bench.model, document, trajectory, actions)
    context.say(
        "labels", **difference(fast, naive_labels(bench.model, document, trajectory, actions)),
        noise=noise_floor(bench.model, document, trajectory, actions[::4]),
        attention=attention,
    )  # fmt: skip


def _speed(context: StepContext, bench: Bench, case: Case) -> dict[str, Any]:
    """Every label of the trajectory once, after a warm-up, and some of them the naive way."""
    model, trajectory = bench.model, case.trajectory()
    document = make_document(context, model, case)
    actions = trajectory.legal_actions(PROTECTED_TAIL)
    edits = [action_edit(trajectory, action) for action in actions]
    num_labels = sum(len(legal) for _, legal in snapshots_of(trajectory))
    planned, work = flops_of(bench, trajectory, actions), work_of(bench, trajectory, actions)
    fast_labels(model, document, trajectory, spread_actions(trajectory, 8))
    batching = Batching(model.batch_tokens)
    num_passes = len(plan_passes(trajectory, edits, None, batching.tokens))
    asked = batching.tokens
    reset_peak(context.device)
    baseline_s, baseline = wall_seconds(context.device, lambda: measure_baseline(model, document, trajectory))
    edits_s, measured = wall_seconds(
        context.device,
        lambda: measure_edits(model, document, trajectory, edits, baseline, batching),
    )
    peak = peak_bytes(context.device)
    assert all(torch.isfinite(delta_H).all() for delta_H in measured.deltas[:4])
    seconds = baseline_s + edits_s
    naive_s = _naive_seconds(bench, document, case)
    return {
        "seconds": seconds, "baseline_seconds": baseline_s, "num_actions": len(actions),
        "num_labels": num_labels, "labels_per_s": num_labels / seconds,
        "tokens_per_s": work.num_recomputed / seconds, "flops_per_s": planned / seconds,
        "share_of_matmul_rate": planned / seconds / bench.gemm_flops,
        "batch_tokens": asked, "batch_tokens_in_the_end": batching.tokens, "num_passes": num_passes,
        "peak_bytes": peak, "naive_seconds_per_pass": naive_s,
        # A pass for every label, and one for every cursor's baseline.
        "speedup_over_naive": naive_s * (num_labels + case.num_cursors) / seconds,
    }  # fmt: skip


def _naive_seconds(bench: Bench, document: DocumentTree, case: Case) -> float:
    """Seconds of one whole pass at the middle cursor, over a few seeded actions; a label is timed with its
    baseline, which is a pass of its own."""
    trajectory = case.trajectory()
    cursor = trajectory.cursors[len(trajectory.cursors) // 2]
    snapshot = trajectory.head.extended(cursor)
    actions = spread_actions(trajectory, 3)
    naive_label(bench, document, snapshot, actions[0])
    times = [bench.seconds(partial(naive_label, bench, document, snapshot, one))[0] for one in actions]
    return statistics.median(times) / 2
