"""The gradient estimator on the device: against exact labels and the CPU's estimates, and what a label costs.

SmolLM2's estimates of a level-0 context and of a recency one; the 1B Llama's speed against exact labels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL, Case
from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import TrajectoryLabels, difference, fast_labels, spread_actions
from benchmarks.gpu_kit.llama import make_bench, make_document
from benchmarks.gpu_kit.timing import peak_bytes, reset_peak, wall_seconds
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.gradient_estimator import GradientEffects, estimate_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory


def run(context: StepContext) -> None:
    _fidelity(context)
    model = make_bench(context).model
    for num_cursors in sorted(context.sizes.cursors):
        case = Case("level0", context.sizes.context, num_cursors)
        context.say("speed", map=case.map, N=case.num_tokens, R=num_cursors, **_speed(context, model, case))


def _fidelity(context: StepContext) -> None:
    sizes = context.sizes
    cases = (Case("level0", sizes.label_context, 1), Case("recency", sizes.recency_tokens, 1))
    on_cpu: dict[str, TrajectoryLabels] = {}
    for dtype, device in (
        ("float32", torch.device("cpu")), ("float32", context.device), ("bfloat16", context.device),
    ):  # fmt: skip
        model = load_base_model(ModelSource("smollm2-135m", None, context.smollm2()), dtype, str(device))
        for case in cases:
            trajectory, document = case.trajectory(), make_document(context, model, case)
            actions = spread_actions(trajectory, sizes.num_labels)
            estimated = _labels(model, document, trajectory, actions)
            if case.map not in on_cpu:
                on_cpu[case.map] = estimated
                continue
            about = {"map": case.map, "dtype": dtype}
            exact = fast_labels(model, document, trajectory, actions)
            context.say("against exact", **about, **difference(estimated, exact))
            context.say("against the CPU's float32", **about, **difference(estimated, on_cpu[case.map]))


def _labels(
    model: FrozenCausalLM, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> TrajectoryLabels:
    deltas = _estimate(model, document, trajectory, actions).deltas
    return TrajectoryLabels(torch.stack([delta_H[:HORIZON] for delta_H in deltas]).cpu())


def _estimate(
    model: FrozenCausalLM, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> GradientEffects:
    edits = [action_edit(trajectory, action) for action in actions]
    return estimate_edits(model, document, trajectory, edits, Batching(model.batch_tokens))


def _speed(context: StepContext, model: FrozenCausalLM, case: Case) -> dict[str, Any]:
    """All actions of a trajectory by gradient, a few of them exactly; both after a warm-up."""
    trajectory, document = case.trajectory(), make_document(context, model, case)
    legal = trajectory.legal_actions(PROTECTED_TAIL)
    some = spread_actions(trajectory, context.sizes.num_labels)
    edits = [action_edit(trajectory, action) for action in some]
    batching = Batching(model.batch_tokens)
    _estimate(model, document, trajectory, legal[:2])
    baseline = measure_baseline(model, document, trajectory)
    reset_peak(context.device)
    gradient_s, _ = wall_seconds(context.device, lambda: _estimate(model, document, trajectory, legal))
    peak = peak_bytes(context.device)
    exact_s, _ = wall_seconds(
        context.device, lambda: measure_edits(model, document, trajectory, edits, baseline, batching)
    )
    return {
        "num_actions": len(legal), "seconds": gradient_s, "seconds_per_action": gradient_s / len(legal),
        "exact_seconds_per_action": exact_s / len(some), "peak_bytes": peak,
        "cost_over_exact": gradient_s / len(legal) / (exact_s / len(some)),
    }  # fmt: skip
