"""Attention of a few new entries over keys and values that many passes share.

Every counterfactual of a trajectory sees the same entries before its edit, so their keys and values are kept
once, by the baseline pass, and read in place: no pass copies them and no row of a batch repeats them. Each
pass attends to *segments*: the shared prefix, its own entries (causally), and under the windowed estimator a
shared stretch between the edit and the horizon. The fused path runs one kernel per segment and merges the
partial softmaxes by their log-sum-exp; the plain path, for local windows, soft-capped scores and devices
without such kernels, computes the same with matrix products.

Causality and local windows count entries by their index in the edited context, never by position ids.

Shapes: B rows, L own entries per row, h query heads, k key-value heads, g = h / k, e head width, n keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mctrace.base_model.attention_kernels import attention_with_lse
from mctrace.errors import ModelError

ATTENTION_NAME = "mctrace_shared"
_PLAIN_CHUNK = 256
"""queries scored at once on the plain path, which bounds its memory"""


@dataclass(frozen=True)
class KeyValues:
    """Keys and values [1, k, n, e] of every layer for the entries of a baseline."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedSegment:
    """Cached entries [first, end) that every row sees, standing at `index` of the rows' context."""

    first: int
    end: int
    index: int


@dataclass(frozen=True, eq=False)
class PickedSegment:
    """Cached entries `entry_n` [n] that every row sees, in place of a prefix; its own stand behind them."""

    entry_n: Tensor


@dataclass(frozen=True)
class AttentionMass:
    """Collects, per entry of a context, the attention that the entries from `first_query` on pay it.

    These run; what stands before them may be a prefix.
    """

    first_query: int
    by_layer: list[Tensor] = field(default_factory=list)

    def mean_N(self) -> Tensor:
        """Mean over layers, heads and the reading entries that can see an entry; float32 [N]."""
        total_N = torch.stack([mass_N.cpu() for mass_N in self.by_layer]).mean(dim=0)
        num_queries = len(total_N) - self.first_query
        later_N = len(total_N) - torch.arange(len(total_N))
        return total_N / later_N.clamp(max=num_queries)


@dataclass(frozen=True)
class AttentionPlan:
    """Keys that one forward pass attends to besides its own entries, and what it records.

    Own entries stand at `own_index`, and from the `num_before`-th on at `later_index`, with `kept` between.
    """

    cache: KeyValues = field(default_factory=KeyValues)
    prefix: SharedSegment | PickedSegment | None = None
    kept: SharedSegment | None = None
    num_before: int = 0
    own_index: int = 0
    later_index: int = 0
    record: KeyValues | None = None
    mass: AttentionMass | None = None


@dataclass(frozen=True)
class _Keys:
    """A run of keys and values [B or 1, k, n, e] whose first stands at `index`."""

    keys: Tensor
    values: Tensor
    index: int

    def between(self, low: int, high: int) -> "_Keys":
        """Those standing at [low, high)."""
        first = min(max(0, low - self.index), self.keys.shape[2])
        end = max(first, min(self.keys.shape[2], high - self.index))
        return _Keys(self.keys[:, :, first:end], self.values[:, :, first:end], self.index + first)


def shared_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    plans: Sequence[AttentionPlan] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: own entries [B, heads, L, e] in, [B, L, h, e] out.

    Raises ModelError for a model that does not hand `plans` on to its layers, or whose attention has parts
    that this function does not know.
    """
    if plans is None:
        raise not_handed_on()
    refuse_sinks(others)
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # an attribute torch does not know about
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if plans[0].record is not None:
        plans[0].record.layers[layer] = (key, value)
    outs = [
        _attend(query[rows], key[rows], value[rows], plan, layer, scale, softcap, sliding_window)
        for rows, plan in zip(_rows(len(query), len(plans)), plans, strict=True)
    ]
    out_BhLe = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out_BhLe.transpose(1, 2).contiguous(), None


def not_handed_on() -> ModelError:
    """The error of an attention function whose own keyword argument never arrives."""
    return ModelError("this architecture does not pass keyword arguments on to its attention layers")


def refuse_sinks(others: Mapping[str, Any]) -> None:
    """Raises ModelError when the keyword arguments of an attention layer name attention sinks."""
    if others.get("s_aux") is not None:
        raise ModelError("this architecture has attention sinks, which labels are not computed with")


def _rows(num_rows: int, num_plans: int) -> list[slice]:
    assert num_plans in (1, num_rows), (num_plans, num_rows)
    return [slice(None)] if num_plans == 1 else [slice(i, i + 1) for i in range(num_rows)]


def _attend(
    query_BhLe: Tensor,
    key_BkLe: Tensor,
    value_BkLe: Tensor,
    plan: AttentionPlan,
    layer: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    prefix, kept = (_shared(plan, segment, layer) for segment in (plan.prefix, plan.kept))
    if plan.mass is not None:
        runs = _runs(key_BkLe, value_BkLe, prefix, kept, plan)
        plan.mass.by_layer.append(_mass(query_BhLe, runs, plan, scale, softcap, window))
    if softcap is None and window is None and _has_kernel(query_BhLe, value_BkLe):
        return _fused(query_BhLe, key_BkLe, value_BkLe, prefix, kept, plan.num_before, scale)
    runs = _runs(key_BkLe, value_BkLe, prefix, kept, plan)
    parts = _plain(query_BhLe, runs, plan, scale, softcap, window)
    return torch.cat([weights @ values for weights, values in parts], dim=3).flatten(1, 2)


def _shared(plan: AttentionPlan, segment: SharedSegment | PickedSegment | None, layer: int) -> _Keys | None:
    if segment is None:
        return None
    if isinstance(segment, PickedSegment):
        # A layer at a time: copies of all layers would be held for every row of a batch.
        keys, values = (
            part.index_select(2, segment.entry_n.to(part.device)) for part in plan.cache.layers[layer]
        )
        return _Keys(keys, values, 0)
    if segment.first == segment.end:
        return None
    keys, values = plan.cache.layers[layer]
    here = slice(segment.first, segment.end)
    return _Keys(keys[:, :, here], values[:, :, here], segment.index)


def _fused(
    query_BhLe: Tensor,
    key_BkLe: Tensor,
    value_BkLe: Tensor,
    prefix: _Keys | None,
    kept: _Keys | None,
    num_before: int,
    scale: float,
) -> Tensor:
    groups = query_BhLe.shape[1] // key_BkLe.shape[1]
    out, lse = attention_with_lse(
        query_BhLe, _repeat(key_BkLe, groups), _repeat(value_BkLe, groups), True, scale
    )
    if prefix is not None:
        out, lse = _merge(out, lse, *_over_shared(query_BhLe, prefix, scale))
    if kept is not None:
        later = slice(num_before, None)
        merged, _ = _merge(
            out[:, :, later], lse[:, :, later], *_over_shared(query_BhLe[:, :, later], kept, scale)
        )
        out = torch.cat([out[:, :, :num_before], merged], dim=2)
    return out.to(query_BhLe.dtype)


def _over_shared(query_BhLe: Tensor, shared: _Keys, scale: float) -> tuple[Tensor, Tensor]:
    """All rows and query heads of one key-value head as one long list of queries: nothing is repeated."""
    B, h, L, e = query_BhLe.shape
    k = shared.keys.shape[1]
    folded = query_BhLe.view(B, k, h // k, L, e).transpose(0, 1).reshape(1, k, B * (h // k) * L, e)
    out, lse = attention_with_lse(folded, shared.keys, shared.values, False, scale)
    out_BhLe = out.view(k, B, h // k, L, e).transpose(0, 1).reshape(B, h, L, e)
    lse_BhL = lse.view(k, B, h // k, L).transpose(0, 1).reshape(B, h, L)
    return out_BhLe, lse_BhL


def _merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax over both sets of keys from the softmax over each."""
    share_b = torch.sigmoid(lse_b - lse_a)[..., None]
    return torch.lerp(out_a.float(), out_b.float(), share_b), torch.logaddexp(lse_a, lse_b)


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    width = query.shape[-1]
    return width == value.shape[-1] and width % 8 == 0 and width <= 256


def _repeat(kv_BkLe: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return kv_BkLe
    B, k, L, e = kv_BkLe.shape
    return kv_BkLe[:, :, None].expand(B, k, groups, L, e).reshape(B, k * groups, L, e)


def _runs(
    key: Tensor, value: Tensor, prefix: _Keys | None, kept: _Keys | None, plan: AttentionPlan
) -> list[_Keys]:
    n = plan.num_before
    before = _Keys(key[:, :, :n], value[:, :, :n], plan.own_index)
    later = _Keys(key[:, :, n:], value[:, :, n:], plan.later_index)
    return [run for run in (prefix, before, kept, later) if run is not None and run.keys.shape[2]]


def _plain(
    query_BhLe: Tensor,
    runs: list[_Keys],
    plan: AttentionPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
    first_query: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Softmax weights [B, k, g, c, n] and values [B, k, 1, n, e] for one chunk of c queries after another."""
    B, h, L, e = query_BhLe.shape
    device = query_BhLe.device
    groups = h // runs[0].keys.shape[1]
    n = plan.num_before
    indices_L = [
        *range(plan.own_index, plan.own_index + n),
        *range(plan.later_index, plan.later_index + L - n),
    ]
    index_L = torch.tensor(indices_L).to(device, non_blocking=True)
    for first in range(first_query, L, _PLAIN_CHUNK):
        chunk = slice(first, min(first + _PLAIN_CHUNK, L))
        index_c = index_L[chunk]
        # From the list, not the tensor: a device is waited for as seldom as can be.
        low = 0 if window is None else indices_L[chunk.start] - window + 1
        seen = [run.between(low, indices_L[chunk.stop - 1] + 1) for run in runs]
        query_Bkgce = query_BhLe[:, :, chunk].reshape(B, h // groups, groups, -1, e)
        index_n = torch.cat([torch.arange(r.keys.shape[2], device=device) + r.index for r in seen])
        scores = torch.cat([query_Bkgce @ r.keys[:, :, None].transpose(-1, -2) for r in seen], -1) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        hidden_cn = index_n > index_c[:, None]
        if window is not None:
            hidden_cn |= index_n <= index_c[:, None] - window
        weights = torch.softmax(scores.float().masked_fill(hidden_cn, -torch.inf), dim=-1)
        values = torch.cat([r.values.expand(B, -1, -1, -1) for r in seen], dim=2)
        yield weights.to(query_BhLe.dtype), values[:, :, None]


def _mass(
    query: Tensor,
    runs: list[_Keys],
    plan: AttentionPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention that the reading entries of a context pay each entry, summed over them; float32 [N]."""
    assert plan.mass is not None
    assert plan.kept is None
    assert len(query) == 1
    total_N = torch.zeros(sum(run.keys.shape[2] for run in runs), device=query.device)
    end = plan.mass.first_query
    own = end - plan.own_index
    for weights, _ in _plain(query, runs, plan, scale, softcap, window, own):
        end += weights.shape[3]
        total_N[end - weights.shape[-1] : end] += weights.float().mean(dim=(0, 1, 2)).sum(dim=0)
    return total_N
