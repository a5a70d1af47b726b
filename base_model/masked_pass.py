"""Pass of a whole context in which a mask says who sees whom and some entries run through changed layers.

Gists of keys and values come from such a pass: one run of a document gives all of them and everything that
reads them, forwards and backwards. The changes are of low rank (LoRA, Hu et al. 2021) and act at the named
entries alone, so the frozen model is unchanged everywhere else.

Shapes: B contexts, N entries of each, d embedding width, A changed entries, r rank, S kept positions, V
vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mctrace.base_model.output_head import head_logits
from mctrace.errors import ModelError


@dataclass(frozen=True)
class LowRankChange:
    """Added to a linear layer's output: up [out, r] @ down [r, in] @ input, in float32."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class RowValues:
    """In place of a layer's outputs: values [A, out]."""

    rows: Tensor


@dataclass(frozen=True)
class EntryChanges:
    """Changes of layers, by their names in the model, that act at the entries `entry_A` alone; in a pass of
    several contexts, entry i of context b is b * N + i."""

    entry_A: Tensor
    by_layer: Mapping[str, LowRankChange | RowValues] = field(default_factory=dict)


def linear_layers(network: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """(input width, output width) of every linear layer below the output head, by name, in order.

    Raises ModelError for a model that has none.
    """
    found = {
        name: (module.in_features, module.out_features)
        for name, module in network.base_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    if not found:
        raise ModelError(
            f"a {network.config.model_type} model has no linear layers that could be changed at single "
            "entries: use a model of the Llama, Qwen or GPT-NeoX families"
        )
    return found


def check_whole_attention(config: PreTrainedConfig) -> None:
    """Raises ModelError for a model with local attention, whose windows count entries: with some of them
    hidden they would reach further back."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    is_local = set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None)
    if is_local:
        raise ModelError(
            f"a {config.model_type} model has local attention, and gists of keys and values take a model "
            "in which entries see the whole context: use a model whose layers all attend to everything"
        )


def masked_logits(
    network: PreTrainedModel,
    embeddings_Nd: Tensor,
    position_N: Tensor,
    visible_NN: Tensor,
    keep_S: Tensor,
    changes: EntryChanges | None = None,
) -> Tensor:
    """`masked_batch_logits` of one context."""
    return masked_batch_logits(
        network, embeddings_Nd[None], position_N[None], visible_NN[None], keep_S, changes
    )


def masked_batch_logits(
    network: PreTrainedModel,
    embeddings_BNd: Tensor,
    position_BN: Tensor,
    visible_BNN: Tensor,
    keep_S: Tensor,
    changes: EntryChanges | None = None,
) -> Tensor:
    """Next-token logits [S, V] after the entries `keep_S` (entry i of context b is b * N + i); entry i of a
    context sees its entry j where `visible_BNN[b, i, j]`.

    Every entry must see itself. Differentiable in the embeddings and the changes.
    """
    dtype = embeddings_BNd.dtype
    mask_BNN = torch.zeros(visible_BNN.shape, dtype=dtype, device=visible_BNN.device)
    mask_BNN = mask_BNN.masked_fill_(~visible_BNN, torch.finfo(dtype).min)
    with changed_layers(network, changes):
        output = network.base_model(
            inputs_embeds=embeddings_BNd,
            position_ids=position_BN,
            attention_mask=mask_BNN[:, None],
            use_cache=False,
        )
    return head_logits(network, output.last_hidden_state.flatten(0, 1)[keep_S])


@contextmanager
def changed_layers(network: PreTrainedModel, changes: EntryChanges | None) -> Iterator[None]:
    """The network with `changes` in the passes that are made inside the context."""
    with ExitStack() as hooks:
        if changes is not None and len(changes.entry_A):
            for name, change in changes.by_layer.items():
                layer = network.base_model.get_submodule(name)
                hook = partial(_change, changes.entry_A, change)
                hooks.callback(layer.register_forward_hook(hook).remove)
        yield


@contextmanager
def recorded_outputs(network: PreTrainedModel, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs [N, out] of the named layers in the pass that is made inside the context, by name."""
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            hook = partial(_record, found, name)
            hooks.callback(network.base_model.get_submodule(name).register_forward_hook(hook).remove)
        yield found


def _record(
    found: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    found[name] = output[0].detach()


def _change(
    entry_A: Tensor,
    change: LowRankChange | RowValues,
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> Tensor:
    output_Mo, entry_A = output.flatten(0, 1), entry_A.to(output.device)
    if isinstance(change, RowValues):
        changed_Mo = output_Mo.index_copy(0, entry_A, change.rows.to(output))
    else:
        down_ri, up_or = change.down.to(output.device), change.up.to(output.device)
        rows_Ai = inputs[0].flatten(0, 1).index_select(0, entry_A).float()
        added_Ao = (rows_Ai @ down_ri.T) @ up_or.T
        changed_Mo = output_Mo.index_add(0, entry_A, added_Ao.to(output.dtype))
    return changed_Mo.view_as(output)
