"""Labels of tiny random models of every architecture that the tests know, on the device: no weights needed.

Local and soft-capped attention take the evaluator's plain path, all others its fused one.
"""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import (
    difference,
    fast_labels,
    naive_labels,
    spread_actions,
    watched_kernels,
)
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import choose_own_attention
from mctrace.collect.planning.map_policies import recency_map
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.models import CONFIGS, VOCABULARY, tiny_model

_TREE = TreeShape(block_size=4, max_level=2)
_TAIL, _HORIZON = 8, 16


def run(context: StepContext) -> None:
    trajectory = Trajectory(recency_map(_TREE, 0, 160, (64, 48)), (160, 164), _HORIZON)
    actions = spread_actions(trajectory, context.sizes.num_labels, _TAIL)
    tokens_T = torch.randint(0, VOCABULARY, (trajectory.end,), generator=torch.Generator().manual_seed(1))
    for architecture in CONFIGS:
        reference = tiny_model(architecture)
        on_cpu = fast_labels(reference, _document(reference, tokens_T), trajectory, actions)
        for dtype in (torch.float32, torch.bfloat16):
            model = _moved(reference, context.device, dtype)
            document = _document(model, tokens_T)
            with watched_kernels() as attention:
                fast = fast_labels(model, document, trajectory, actions)
            context.say(
                "labels", architecture=architecture, dtype=str(dtype),
                against_naive=difference(fast, naive_labels(model, document, trajectory, actions)),
                against_cpu=difference(fast, on_cpu), attention=attention,
            )  # fmt: skip


def _moved(model: FrozenCausalLM, device: torch.device, dtype: torch.dtype) -> FrozenCausalLM:
    """The same weights in another dtype; buffers keep theirs, as they do when a model is loaded."""
    network = AutoModelForCausalLM.from_config(model.network.config, dtype=dtype)
    network.load_state_dict(model.network.state_dict())
    choose_own_attention(network)
    return FrozenCausalLM(network.requires_grad_(False).eval().to(device))


def _document(model: FrozenCausalLM, tokens_T: Tensor) -> DocumentTree:
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), _TREE))
