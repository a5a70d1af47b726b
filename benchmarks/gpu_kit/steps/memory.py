"""What the evaluator makes of memory: batch sizes, logits held at once, and running out of it."""

from typing import Any

import torch

from benchmarks.evaluator_cases import PROTECTED_TAIL, Case
from benchmarks.evaluator_methods import Bench
from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import fast_labels, spread_actions
from benchmarks.gpu_kit.llama import make_bench, make_document
from benchmarks.gpu_kit.timing import peak_bytes, reset_peak, wall_seconds
from mctrace.base_model import causal_lm as base_model
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import Edit, action_edit
from mctrace.context.trajectory import Trajectory
from mctrace.errors import ModelError


def run(context: StepContext) -> None:
    bench = make_bench(context)
    case = Case("level0", context.sizes.context, context.sizes.cursors[0])
    trajectory, document = case.trajectory(), make_document(context, bench.model, case)
    legal = trajectory.legal_actions(PROTECTED_TAIL)
    middle = legal[len(legal) // 2 : len(legal) // 2 + (2 if context.toy else 48)]
    edits = [action_edit(trajectory, action) for action in middle]
    for batch_tokens in context.sizes.batch_tokens:
        batching = Batching(batch_tokens)
        found = _timed(context, bench, document, trajectory, edits, batching)
        context.say("batch", asked=batch_tokens, **found)
    recency = Case("recency", context.sizes.recency_tokens, 1)
    trajectory, document = recency.trajectory(), make_document(context, bench.model, recency)
    actions = spread_actions(trajectory, 4 if context.toy else 90)
    edits = [action_edit(trajectory, action) for action in actions]
    usual = base_model._LOGITS_PER_CHUNK
    try:
        for exponent in (20, 24) if context.toy else (24, 26, 28):
            base_model._LOGITS_PER_CHUNK = 2**exponent
            batching = Batching(bench.model.batch_tokens)
            found = _timed(context, bench, document, trajectory, edits, batching)
            context.say("logits", per_chunk=2**exponent, **found)
    finally:
        base_model._LOGITS_PER_CHUNK = usual
    if context.on_cuda:
        _run_out(context, bench)


def _timed(
    context: StepContext,
    bench: Bench,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: list[Edit],
    batching: Batching,
) -> dict[str, Any]:
    """The second of two runs: the first finds the kernels and the memory."""
    baseline = measure_baseline(bench.model, document, trajectory)
    measure_edits(bench.model, document, trajectory, edits, baseline, batching)
    reset_peak(context.device)
    took, measured = wall_seconds(
        context.device,
        lambda: measure_edits(bench.model, document, trajectory, edits, baseline, batching),
    )
    return {
        "seconds": took, "tokens_per_s": measured.work.num_recomputed / took,
        "share_of_matmul_rate": bench.model.size.flops(measured.work) / took / bench.gemm_flops,
        "in_the_end": batching.tokens, "peak_bytes": peak_bytes(context.device),
    }  # fmt: skip


def _run_out(context: StepContext, bench: Bench) -> None:
    """Labels with less and less of the memory that their batch wants: smaller batches, the same labels."""
    case = Case("level0", context.sizes.label_context, 2)
    trajectory, document = case.trajectory(), make_document(context, bench.model, case)
    actions = spread_actions(trajectory, 24)
    edits = [action_edit(trajectory, action) for action in actions]
    expected = fast_labels(bench.model, document, trajectory, actions, 2 * trajectory.head.num_entries)
    baseline = measure_baseline(bench.model, document, trajectory)
    total = torch.cuda.mem_get_info(context.device)[1]
    for spare in (2**31, 2**30, 2**29, 2**28):
        torch.cuda.empty_cache()
        allowed, batching = torch.cuda.memory_reserved(context.device) + spare, Batching(10**6)
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), context.device)
        try:
            deltas = measure_edits(bench.model, document, trajectory, edits, baseline, batching).deltas
        except ModelError as error:
            context.say("out of memory", spare_bytes=spare, error=str(error))
            continue
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
        found = [
            delta_H[trajectory.first_cursor - edit.first_token :][: trajectory.horizon].mean()
            for edit, delta_H in zip(edits, deltas, strict=True)
        ]
        context.say(
            "out of memory", spare_bytes=spare, asked=10**6, in_the_end=batching.tokens,
            label_max=float((torch.stack(found).cpu() - expected.label_A).abs().max()),
        )  # fmt: skip
