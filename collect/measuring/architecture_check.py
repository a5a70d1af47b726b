"""Architecture check: labels computed on kept keys and values must equal the naive evaluator's.

The evaluator calls a model's layers in its own way (embeddings in, shared keys and values, a local window
that counts entries). An architecture that does something else with them would silently give wrong
labels. So before any work a small model of the same configuration, with random weights large enough for every
part to matter, is compared with its own plain forward pass: in float32, where nothing but arithmetic noise
may differ, and in the run's dtype on the run's device, where the kernels are the ones that will be used.
"""

import copy
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import choose_own_attention
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import Action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import MeanGistNet, build_tree

_TREE = TreeShape(8, 1)
_HORIZON = 16
_VOCABULARY = 128
_LOCAL_WINDOW = 12
"""entries, so that a short context reaches beyond it"""
_STRICT = 1e-4
"""nats per token, the evaluator's contract in float32"""
_LOOSE = 0.15
"""share of the labels' own size by which they may differ on average in half precision"""
_BUILDING = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError)


def check_architecture(config: PreTrainedConfig, device: torch.device | str, dtype: torch.dtype) -> None:
    """Raises ModelError, with the reason, when labels of such a model would not be the naive ones."""
    try:
        model = _small_model(config, device)
        _check_labels(model, _STRICT, "float32")
        if dtype != torch.float32:
            model.network.to(dtype)
            _check_labels(model, _LOOSE, str(dtype).removeprefix("torch."))
    except ModelError as error:
        raise _unfit(config, str(error)) from error
    except _BUILDING as error:
        raise _unfit(config, f"its layers cannot run on kept keys and values: {error!r}") from error


def _unfit(config: PreTrainedConfig, reason: str) -> ModelError:
    return ModelError(
        f"a {config.model_type} model cannot be evaluated: {reason}. "
        "Llama-, Qwen-, Mistral-, Gemma-, GPT-NeoX- and GPT-2-like models can"
    )


def _small_model(config: PreTrainedConfig, device: torch.device | str) -> FrozenCausalLM:
    """The architecture with few layers, narrow where its configuration allows, with weights that matter."""
    try:
        network = AutoModelForCausalLM.from_config(_shrunken(config, narrow=True), dtype=torch.float32)
    except _BUILDING:
        # Some configurations carry lists as long as their own widths.
        network = AutoModelForCausalLM.from_config(_shrunken(config, narrow=False), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            std = 2 / parameter.shape[-1] ** 0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * std
    choose_own_attention(network)
    if "position_ids" not in signature(network.base_model.forward).parameters:
        raise ModelError("it takes no position ids, and a gist stands at the centre of what it replaces")
    return FrozenCausalLM(network.requires_grad_(False).eval().to(device))


def _shrunken(config: PreTrainedConfig, *, narrow: bool) -> PreTrainedConfig:
    small = copy.deepcopy(config)
    text: Any = small.get_text_config()
    per_layer = {
        key: value
        for key, value in vars(text).items()
        if isinstance(value, list) and len(value) == text.num_hidden_layers
    }
    # As many layers as it takes to see every kind.
    num_layers = min(2, text.num_hidden_layers)
    while any(set(map(str, v[:num_layers])) != set(map(str, v)) for v in per_layer.values()):
        num_layers += 1
    for key, value in per_layer.items():
        setattr(text, key, value[:num_layers])
    text.num_hidden_layers = num_layers
    text.vocab_size = _VOCABULARY
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    if getattr(text, "sliding_window", None):
        text.sliding_window = _LOCAL_WINDOW
    if narrow:
        _narrow(text)
    return small


def _narrow(text: Any) -> None:
    heads, shared = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
    text.num_attention_heads, text.hidden_size = 4, 64
    if shared is not None:
        text.num_key_value_heads = 4 if shared == heads else 1 if shared == 1 else 2
    if getattr(text, "head_dim", None):
        text.head_dim = 16
    if getattr(text, "intermediate_size", None):
        text.intermediate_size = 96


@torch.inference_mode()
def _check_labels(model: FrozenCausalLM, tolerance: float, dtype: str) -> None:
    found, expected = _both_ways(model)
    difference, size = (found - expected).abs(), expected.abs()
    off = float(difference.max()) if tolerance == _STRICT else float(difference.mean() / size.mean())
    if not off <= tolerance:
        unit = "nats per token" if tolerance == _STRICT else "of their size"
        raise ModelError(
            f"labels of a small random one differ by {off:.2g} {unit} in {dtype} from its plain forward "
            f"pass, more than {tolerance:g}: its layers use something besides causal order, a local window "
            "of entries and position ids"
        )


def _both_ways(model: FrozenCausalLM) -> tuple[Tensor, Tensor]:
    """Per-token effects of an expand, a collapse and a drop at two cursors: the evaluator's, the naive."""
    head = LODMap.of_tokens(_TREE, 0, 6 * _TREE.block_size).with_level(slice(0, 2), 1)
    trajectory = Trajectory(head, (head.cursor, head.cursor + 5), _HORIZON)
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.randint(_VOCABULARY, (trajectory.end,), generator=generator)
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), _TREE))
    actions = [Action("expand", Node(1, 1)), Action("collapse", Node(1, 2)), Action("drop", Node(1, 3))]
    edits = [action_edit(trajectory, action) for action in actions]
    baseline = measure_baseline(model, document, trajectory)
    num_layers = model.network.config.get_text_config().num_hidden_layers
    if len(baseline.cache.layers) != num_layers:
        raise ModelError(
            f"only {len(baseline.cache.layers)} of its {num_layers} layers are attention that transformers "
            "lets others compute"
        )
    deltas = measure_edits(model, document, trajectory, edits, baseline, Batching(1024)).deltas
    found, expected = [], []
    for cursor in trajectory.cursors:
        snapshot, first = head.extended(cursor), cursor - trajectory.first_cursor
        found += [delta_H[first : first + _HORIZON].cpu() for delta_H in deltas]
        expected += [naive_delta_nll(model, document, snapshot, action, _HORIZON) for action in actions]
    return torch.stack(found), torch.stack(expected).cpu()
