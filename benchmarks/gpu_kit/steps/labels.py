"""Labels of SmolLM2 on real text: the evaluator against the naive evaluation, the device against the CPU."""

import torch

from benchmarks.evaluator_cases import TREE, Case
from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import (
    TrajectoryLabels,
    difference,
    fast_labels,
    naive_labels,
    noise_floor,
    spread_actions,
    watched_kernels,
)
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import ModelSource
from mctrace.gists.network.gistnet import MeanGistNet, build_tree


def run(context: StepContext) -> None:
    sizes = context.sizes
    cases = (Case("level0", sizes.label_context, 2), Case("recency", sizes.recency_tokens, 2))
    found: dict[tuple[str, str], TrajectoryLabels] = {}
    for dtype in ("float32", "bfloat16"):
        model = _model(context, dtype, context.device)
        for case in cases:
            found[case.map, dtype] = _on_device(context, model, case, dtype)
    for case in cases:
        compared = difference(found[case.map, "bfloat16"], found[case.map, "float32"])
        context.say("bfloat16 against float32", map=case.map, **compared)
    model = _model(context, "float32", torch.device("cpu"))
    for case in cases:
        trajectory = case.trajectory()
        actions = spread_actions(trajectory, sizes.num_labels // len(cases))
        on_cpu = fast_labels(model, _document(context, model, case), trajectory, actions)
        for dtype in ("float32", "bfloat16"):
            compared = difference(found[case.map, dtype], on_cpu)
            context.say("against the CPU's float32", map=case.map, dtype=dtype, **compared)


def _on_device(context: StepContext, model: FrozenCausalLM, case: Case, dtype: str) -> TrajectoryLabels:
    trajectory, document = case.trajectory(), _document(context, model, case)
    actions = spread_actions(trajectory, context.sizes.num_labels // 2)
    with watched_kernels() as attention:
        fast = fast_labels(model, document, trajectory, actions)
    naive = naive_labels(model, document, trajectory, actions)
    context.say(
        "against naive", map=case.map, dtype=dtype, **difference(fast, naive),
        noise=noise_floor(model, document, trajectory, actions[::4]),
        attention=attention,
    )  # fmt: skip
    return fast


def _model(context: StepContext, dtype: str, device: torch.device) -> FrozenCausalLM:
    return load_base_model(ModelSource("smollm2-135m", None, context.smollm2()), dtype, str(device))


def _document(context: StepContext, model: FrozenCausalLM, case: Case) -> DocumentTree:
    tokens_T = context.tokens(case.trajectory().end)
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
