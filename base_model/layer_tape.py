"""Forward and backward passes of the frozen model by layers, with observers and first-order effects of edits.

A recorded pass keeps what enters each layer and what its attention gives; observers then run on its keys and
values without being seen; the backward pass runs one layer again at a time, takes its attention from the
record and so holds the graph of a single layer. Memory is linear in the number of entries.

Shapes: N entries, M observers, H tokens whose loss is read, d embedding width, C stretches of the loss, E
edits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module, ModuleList
from transformers import AttentionInterface, PreTrainedModel

from mctrace.base_model.attention_edits import (
    AttentionSettings,
    LayerTensors,
    ObservedEdits,
    attention_backward,
    causal_attention,
    observer_attention,
)
from mctrace.base_model.attention_kernels import attention_with_lse
from mctrace.base_model.shared_attention import KeyValues, not_handed_on, refuse_sinks
from mctrace.errors import ModelError

TAPED_ATTENTION_NAME = "mctrace_taped"


@dataclass(frozen=True)
class _Heads:
    """Queries [h, L, e], keys and values [k, L, e] of one call of one layer's attention."""

    query: Tensor
    key: Tensor
    value: Tensor
    settings: AttentionSettings


class _Attend(Protocol):
    def attend(self, layer: int, heads: _Heads) -> Tensor:
        """Output [h, L, e]."""
        ...


def _taped_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    tape: _Attend | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it, for one row; raises what `shared_attention` raises."""
    if tape is None:
        raise not_handed_on()
    refuse_sinks(others)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    heads = _Heads(query[0], key[0], value[0], AttentionSettings(scale, softcap, sliding_window))
    out_hLe = tape.attend(int(module.layer_idx), heads)  # type: ignore[arg-type]  # torch types no attributes
    return out_hLe[None].transpose(1, 2).contiguous(), None


AttentionInterface.register(TAPED_ATTENTION_NAME, _taped_attention)


@dataclass
class _Record:
    """Attention of the baseline, kept layer by layer."""

    heads: dict[int, _Heads] = field(default_factory=dict)
    outputs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(self, layer: int, heads: _Heads) -> Tensor:
        settings = heads.settings
        if settings.softcap is None and settings.window is None:
            groups = len(heads.query) // len(heads.key)
            key, value = (part.repeat_interleave(groups, 0)[None] for part in (heads.key, heads.value))
            out, lse = attention_with_lse(heads.query[None], key, value, True, settings.scale)
            out, lse = out[0].to(heads.query.dtype), lse[0].float()
        else:
            out, lse = causal_attention(heads.query, heads.key, heads.value, settings)
        # Queries are computed again on the way back: only what others attend to is kept.
        self.heads[layer] = _Heads(heads.query[:, :0], heads.key, heads.value, settings)
        self.outputs[layer] = (out, lse)
        return out


@dataclass
class _Observe:
    """Attention of the observers of the edits `chosen`, whose keys and values are kept."""

    record: _Record
    edits: ObservedEdits
    chosen: slice
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(self, layer: int, heads: _Heads) -> Tensor:
        seen = self.record.heads[layer]
        out, lse = self.record.outputs[layer]
        self.kept[layer] = (heads.key, heads.value)
        tensors = LayerTensors(seen.query, seen.key, seen.value, out, lse, heads.key, heads.value)
        return observer_attention(tensors, heads.query, self.edits, self.chosen, heads.settings)


@dataclass
class _Replay:
    """Gives a layer that runs again the recorded output of its attention, as the leaf of a graph."""

    out: Tensor
    heads: _Heads | None = None

    def attend(self, layer: int, heads: _Heads) -> Tensor:
        self.heads = heads
        return self.out


@dataclass(frozen=True)
class LayerTape:
    """A recorded pass of a context of N entries: its losses and everything its backward pass needs."""

    nll_H: Tensor
    network: PreTrainedModel
    record: _Record
    calls: Sequence[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]
    """what each layer was called with: hidden states, other positional arguments, named ones"""
    last_gradient_Hd: Tensor
    """of each token's own loss at what leaves the last layer where it is read"""

    @property
    def cache(self) -> KeyValues:
        """Keys and values of every layer, as a baseline of the exact evaluator keeps them."""
        return KeyValues({i: (heads.key[None], heads.value[None]) for i, heads in self.record.heads.items()})

    def observed(
        self, embeddings_Md: Tensor, position_M: Tensor, edits: ObservedEdits, batch_tokens: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [k, M, e] of every layer of the observers, in passes of about `batch_tokens`."""
        passes = []
        for chosen in _groups(edits.num_observers, batch_tokens):
            end = edits.observer_ends[chosen.stop - 1]
            rows = slice(end - sum(edits.num_observers[chosen]), end)
            observe = _Observe(self.record, edits, chosen)
            if rows.start < rows.stop:
                with torch.no_grad():
                    _run(self.network, embeddings_Md[rows], position_M[rows], observe)
                passes.append(observe.kept)
        empty = [(heads.key[:, :0], heads.value[:, :0]) for _, heads in sorted(self.record.heads.items())]
        return [
            (
                torch.cat([first[0], *(p[i][0] for p in passes)], 1),
                torch.cat([first[1], *(p[i][1] for p in passes)], 1),
            )
            for i, first in enumerate(empty)
        ]

    def effects(
        self,
        observers: Sequence[tuple[Tensor, Tensor]],
        edits: ObservedEdits,
        stretches: Sequence[tuple[int, int]],
    ) -> Tensor:
        """First-order change [E, C] of the loss summed over each stretch of the H tokens, nats."""
        num_entries, num_read = self.calls[0][0].shape[1], len(self.nll_H)
        offset = num_entries - num_read
        end_query_C = [offset + end for _, end in stretches]
        gradients = [self._at_the_top(offset, first, end) for first, end in stretches]
        total = torch.zeros(len(edits), len(stretches), dtype=torch.float64, device=self.nll_H.device)
        for number in reversed(range(len(self.calls))):
            is_last = number == len(self.calls) - 1
            gradients, effects = self._through_layer(
                number, gradients, observers[number], edits, offset if is_last else 0, end_query_C
            )
            total += effects.to(total.device)
        return total

    def _at_the_top(self, offset: int, first: int, end: int) -> Tensor:
        gradient_Nd = self.last_gradient_Hd.new_zeros(
            self.calls[0][0].shape[1], self.last_gradient_Hd.shape[1]
        )
        gradient_Nd[offset + first : offset + end] = self.last_gradient_Hd[first:end]
        return gradient_Nd[None]

    @torch.enable_grad()
    def _through_layer(
        self,
        number: int,
        gradients: Sequence[Tensor],
        observers: tuple[Tensor, Tensor],
        edits: ObservedEdits,
        first_query: int,
        end_query_C: Sequence[int],
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients at the layer's input from those at its output, and the effects through its attention."""
        entering, others, named = self.calls[number]
        hidden = entering.detach().requires_grad_()
        out, lse = self.record.outputs[number]
        replay = _Replay(out.detach().requires_grad_())
        with attention_as(self.network, TAPED_ATTENTION_NAME):
            left = _hidden_of(_layers(self.network)[number](hidden, *others, **{**named, "tape": replay}))
        assert replay.heads is not None
        heads = replay.heads
        pairs = [
            torch.autograd.grad(left, (hidden, replay.out), gradient.to(left.device), retain_graph=True)
            for gradient in gradients
        ]
        tensors = LayerTensors(
            *(t.detach() for t in (heads.query, heads.key, heads.value, out, lse, *observers))
        )
        at_out = torch.stack([gradient for _, gradient in pairs])
        with torch.no_grad():
            back = attention_backward(tensors, at_out, edits, heads.settings, first_query, end_query_C)
        if number == 0:
            return [], back.effects
        sources = (heads.query, heads.key, heads.value)
        entering_gradients = []
        for i, (direct, _) in enumerate(pairs):
            given = [part[i].to(heads.query.dtype) for part in (back.query, back.key, back.value)]
            through = torch.autograd.grad(sources, hidden, given, retain_graph=True)[0]
            entering_gradients.append(direct + through)
        return entering_gradients, back.effects


def record_pass(
    network: PreTrainedModel,
    embeddings_Nd: Tensor,
    position_N: Tensor,
    num_read: int,
    losses: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> LayerTape:
    """Run a context and keep what its backward pass needs.

    `losses` turns the last hidden states [H, d] into losses [H] and each loss's gradient [H, d] there. Raises
    ModelError, with the architecture's name, where its layers are not called one after another on hidden
    states, and in float16.
    """
    if network.dtype == torch.float16:
        raise ModelError(
            "gradients underflow in float16: use model.dtype float32 or bfloat16, or collect.estimator exact"
        )
    layers, record = _layers(network), _Record()
    calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
    leaves: list[Tensor] = []

    def before(_: Module, positional: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if not positional:
            raise _unknown(network, "calls its layers without hidden states in the first place")
        calls.append((positional[0], positional[1:], {k: v for k, v in named.items() if k != "tape"}))

    def after(_: Module, __: Any, output: Any) -> Any:
        leaves.append(_hidden_of(output).detach().requires_grad_())
        return (leaves[0], *output[1:]) if isinstance(output, tuple) else leaves[0]

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(after))
    try:
        with torch.enable_grad():
            last_Nd = _run(network, embeddings_Nd, position_N, record)
    finally:
        for handle in handles:
            handle.remove()
    if len(calls) != len(layers) or sorted(record.outputs) != list(range(len(layers))):
        raise _unknown(network, "does not call every layer's attention exactly once")
    nll_H, gradient_Hd = losses(last_Nd[-num_read:])
    (at_top_1Nd,) = torch.autograd.grad(last_Nd[-num_read:], leaves[0], gradient_Hd.to(last_Nd.dtype))
    return LayerTape(nll_H, network, record, calls, at_top_1Nd[0, -num_read:])


def _run(network: PreTrainedModel, embeddings_Nd: Tensor, position_N: Tensor, tape: _Attend) -> Tensor:
    """Last hidden states [N, d]; the mask in four dimensions is handed on as it is, see `causal_lm.py`."""
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeddings_Nd.device)
    with attention_as(network, TAPED_ATTENTION_NAME):
        output = network.base_model(
            inputs_embeds=embeddings_Nd[None],
            position_ids=position_N[None],
            attention_mask=mask,
            use_cache=False,
            tape=tape,
        )
    last_1Nd: Tensor = output.last_hidden_state
    return last_1Nd[0]


@contextmanager
def attention_as(network: PreTrainedModel, name: str) -> Iterator[None]:
    """The network with another attention function while the context is open."""
    own = network.config.get_text_config()._attn_implementation
    network.set_attn_implementation(name)
    try:
        yield
    finally:
        network.set_attn_implementation(own)


def _layers(network: PreTrainedModel) -> ModuleList:
    number = network.config.get_text_config().num_hidden_layers
    found = [m for m in network.base_model.modules() if isinstance(m, ModuleList) and len(m) == number]
    if not found:
        raise _unknown(network, "has no list of its layers")
    return found[0]


def _unknown(network: PreTrainedModel, reason: str) -> ModelError:
    return ModelError(
        f"collect.estimator gradient cannot differentiate a {network.config.model_type} model: it {reason}; "
        "use exact or windowed"
    )


def _hidden_of(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _groups(counts: Sequence[int], room: int) -> list[slice]:
    """Runs of edits whose observers fit in `room` together, one edit at least."""
    groups, first, total = [], 0, 0
    for i, count in enumerate(counts):
        if i > first and total + count > room:
            groups.append(slice(first, i))
            first, total = i, 0
        total += count
    if first < len(counts):
        groups.append(slice(first, len(counts)))
    return groups
