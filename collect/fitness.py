"""Whether a base model can be evaluated at all: its labels on kept keys and values must be the naive ones.

The evaluator calls a model's layers in its own way (embeddings in, shared keys and values, a local window
that counts entries). An architecture that does something else with them would give wrong labels without a
word, so each is held against its own plain forward pass, on random tokens, before any work.
"""

from inspect import signature

import torch

from mctrace.collect.base_model import FrozenCausalLM
from mctrace.collect.edits import action_edit, drop_edit
from mctrace.collect.evaluator import Batching, DocumentTree, measure_baseline, measure_edits
from mctrace.collect.naive import naive_delta_nll, naive_drop_delta_nll
from mctrace.context.actions import Action
from mctrace.context.errors import ModelError
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.gists.gistnet import MeanGistNet, build_tree

_HORIZON = 16
_MIN_ENTRIES = 128
_BLOCKS_AROUND = 3
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.15}
"""nats per token, mean over the horizon; half precision moves single tokens by about a tenth"""


def check_model(model: FrozenCausalLM, tree: TreeShape) -> None:
    """Raises ModelError, with the reason, for a model whose labels would differ from the naive evaluation."""
    if "position_ids" not in signature(model.network.base_model.forward).parameters:
        raise _unfit(model, "it takes no position ids, and a gist stands at the centre of what it replaces")
    try:
        difference = _largest_difference(model, tree)
    except ModelError as error:
        raise _unfit(model, str(error)) from error
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        raise _unfit(model, f"its layers cannot run on kept keys and values: {error!r}") from error
    tolerance = _TOLERANCE[model.network.dtype]
    if not difference <= tolerance:
        raise _unfit(
            model,
            f"its labels differ by {difference:.2g} nats per token from a plain forward pass, more than "
            f"{tolerance:g}: its attention depends on something besides causal order, a local window of "
            "entries and position ids",
        )


def _unfit(model: FrozenCausalLM, reason: str) -> ModelError:
    return ModelError(
        f"a {model.network.config.model_type} model cannot be evaluated: {reason}. "
        "Llama-, Qwen-, Mistral-, Gemma-, GPT-NeoX- and GPT-2-like models can"
    )


@torch.inference_mode()
def _largest_difference(model: FrozenCausalLM, tree: TreeShape) -> float:
    """Mean over the horizon's tokens, the largest of an expand, a collapse and a drop; nats per token."""
    trajectory = _trajectory(model, tree)
    generator = torch.Generator().manual_seed(0)
    vocabulary = len(model.network.get_input_embeddings().weight)
    tokens_T = torch.randint(vocabulary, (trajectory.end,), generator=generator)
    one_level = TreeShape(tree.block_size, 1)
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), one_level))
    snapshot, nodes = trajectory.head, [Node(1, 1), Node(1, 2)]
    actions = [Action("expand", nodes[0]), Action("collapse", nodes[1])]
    edits = [action_edit(trajectory, action) for action in actions] + [drop_edit(trajectory, nodes[1])]
    baseline = measure_baseline(model, document, trajectory)
    found = measure_edits(model, document, trajectory, edits, baseline, Batching(1)).deltas
    expected = [naive_delta_nll(model, document, snapshot, action, _HORIZON) for action in actions]
    expected.append(naive_drop_delta_nll(model, document, snapshot, nodes[1], _HORIZON))
    differences = [(a_H - b_H).abs().mean() for a_H, b_H in zip(found, expected, strict=True)]
    return float(torch.stack(differences).max())


def _trajectory(model: FrozenCausalLM, tree: TreeShape) -> Trajectory:
    """Two gists among tokens; long enough for a local window to matter, as far as the positions go."""
    window = getattr(model.network.config.get_text_config(), "sliding_window", None) or 0
    num_entries = max(_MIN_ENTRIES, window + _BLOCKS_AROUND * tree.block_size)
    num_blocks = max(4, -(-num_entries // tree.block_size) + 2)
    num_blocks = min(num_blocks, (model.max_positions - _HORIZON) // tree.block_size)
    if num_blocks < 4:
        raise ModelError(f"it has {model.max_positions} positions, too few for blocks of {tree.block_size}")
    head = LODMap.of_tokens(TreeShape(tree.block_size, 1), 0, num_blocks * tree.block_size)
    head = head.with_level(slice(0, 2), 1)
    return Trajectory(head, (head.cursor,), _HORIZON)
