"""First-order effect of edits on one attention layer, computed with the gradient that flows on through it.

For a query with attention weights A, normaliser Z and output o, an edit that takes away entries b and puts
in entries r with scores s_r and values v_r changes the output, were everything upstream unchanged, to exactly

    o' = (o - W_b + sum_r u_r v_r) / (1 - w_b + sum_r u_r)
    w_b = sum_j A_j,  W_b = sum_j A_j v_j,  u_r = exp(s_r) / Z

and the loss, to first order in the output, by g . (o' - o) with g the gradient of the loss at o. Only
products with g are needed, so each block's part is a sum over the rows of A and of A * (g v), which the
backward pass of attention forms anyway. Related: attribution patching (Nanda 2023) and AtP* (Kramar et al.
2024).

Queries go through in chunks: memory is linear in the number of entries.

Shapes: C stretches of the loss, h query heads, k key-value heads, g = h / k, N entries, M observers, e head
width, c queries of a chunk, n keys, E edits.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_CHUNK_SCORES = {"cpu": 2**20, "cuda": 2**27}
"""scores in float32 at once; on a CPU what stays near the processor"""
_LARGEST_EXPONENT = 60.0
"""of an entry that the baseline cannot see, against what it sees: beyond it nothing else has any weight"""
_SMALLEST_MASS = 1e-6
"""of what an edit leaves a query, below which float32 has lost it"""


@dataclass(frozen=True)
class AttentionSettings:
    """How one layer scores: `window` counts entries of a local layer, None sees all."""

    scale: float
    softcap: float | None = None
    window: int | None = None


@dataclass(frozen=True)
class ObservedEdits:
    """Edits by number: entries [first, end) give way to `num_observers`, in a row, edit by edit.

    Sorted by `end`, so that a query sees a leading part of them.
    """

    firsts: tuple[int, ...]
    ends: tuple[int, ...]
    num_observers: tuple[int, ...]

    def __post_init__(self) -> None:
        assert all(a <= b for a, b in zip(self.ends, self.ends[1:], strict=False)), "edits come by their end"

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def observer_ends(self) -> tuple[int, ...]:
        """One past each edit's last observer."""
        return tuple(torch.tensor(self.num_observers, dtype=torch.long).cumsum(0).tolist())

    def num_before(self, query: int) -> int:
        """Edits that end at or before entry `query`."""
        return int(torch.searchsorted(torch.tensor(self.ends), query, right=True))

    @cached_property
    def slack(self) -> int:
        """Entries beyond a local window that come into it when an edit shortens the context."""
        changes = zip(self.firsts, self.ends, self.num_observers, strict=True)
        return max([0, *(end - first - count for first, end, count in changes)])


@dataclass(frozen=True)
class LayerTensors:
    """A layer's attention on the baseline (queries, outputs [h, N, e], log-sum-exp [h, N], keys and values
    [k, N, e]) and the observers' keys and values [k, M, e]."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    lse: Tensor
    observer_key: Tensor
    observer_value: Tensor


@dataclass(frozen=True)
class LayerGradients:
    """Gradients [C, h, N, e] and [C, k, N, e] of each stretch's loss, and its change [E, C] by every edit, in
    nats."""

    query: Tensor
    key: Tensor
    value: Tensor
    effects: Tensor


def attention_backward(
    layer: LayerTensors,
    gradient_ChNe: Tensor,
    edits: ObservedEdits,
    settings: AttentionSettings,
    first_query: int,
    end_query_C: Sequence[int],
) -> LayerGradients:
    """Backward pass through one layer's attention with the first-order effects of all `edits` on the way.

    The gradient of stretch i is zero outside of the queries [first_query, end_query_C[i]).
    """
    key_gradient, value_gradient = (
        layer.key.new_zeros(len(gradient_ChNe), *layer.key.shape, dtype=torch.float32) for _ in range(2)
    )
    effects = torch.zeros(len(edits), len(gradient_ChNe), dtype=torch.float64, device=layer.key.device)
    found = LayerGradients(torch.zeros_like(gradient_ChNe), key_gradient, value_gradient, effects)
    for chunk in _chunks(layer, settings, edits, first_query, max(end_query_C)):
        for i, end_query in enumerate(end_query_C):
            if end_query > chunk.first:
                _one_stretch(chunk, gradient_ChNe[i], found, i)
    return found


@dataclass(frozen=True)
class _Chunk:
    """Queries [first, end) against keys [low, end): what all stretches share.

    `weights` [k, g*c, n] are exp(score - lse) of all entries up to the query, `seen` those in its window.
    """

    layer: LayerTensors
    edits: ObservedEdits
    settings: AttentionSettings
    first: int
    end: int
    low: int
    query: Tensor
    weights: Tensor
    seen: Tensor
    cap_slope: Tensor | None
    num_edits: int
    observer_weights: Tensor

    def folded(self, tensor_hNe: Tensor) -> Tensor:
        """Rows of this chunk with the heads of one key-value head as one list: [k, g*c, ...]."""
        return _folded(tensor_hNe, self.first, self.end, len(self.layer.key))


def _folded(tensor_hNe: Tensor, first: int, end: int, num_kv_heads: int) -> Tensor:
    part = tensor_hNe[:, first:end]
    return part.reshape(num_kv_heads, -1, *part.shape[2:])


def _chunks(
    layer: LayerTensors, settings: AttentionSettings, edits: ObservedEdits, first_query: int, end_query: int
) -> Iterator[_Chunk]:
    num_kv_heads, window, first = len(layer.key), settings.window, first_query
    while first < end_query:
        low = 0 if window is None else max(0, first - window + 1 - edits.slack)
        end = min(end_query, first + _chunk_length(layer.query, first - low))
        query = _folded(layer.query, first, end, num_kv_heads)
        lse = _folded(layer.lse, first, end, num_kv_heads)[..., None]
        scores, cap_slope = _scores(query, layer.key[:, low:end], settings)
        weights = scores.sub_(lse).clamp_(max=_LARGEST_EXPONENT).exp_()
        num_rows = end - first
        own = weights.view(num_kv_heads, -1, num_rows, end - low)[..., first - low :]
        hidden = torch.ones(num_rows, num_rows, dtype=torch.bool, device=weights.device).triu(1)
        own.masked_fill_(hidden, 0.0)
        seen = weights
        if window is not None:
            index_n = torch.arange(low, end, device=weights.device)
            index_c = torch.arange(first, end, device=weights.device)
            beyond_cn = index_n <= index_c[:, None] - window
            seen = weights.view(num_kv_heads, -1, num_rows, end - low).masked_fill(beyond_cn, 0.0)
            seen = seen.view_as(weights)
        num_edits = edits.num_before(end - 1)
        num_observers = edits.observer_ends[num_edits - 1] if num_edits else 0
        observer_scores, _ = _scores(query, layer.observer_key[:, :num_observers], settings)
        observer_weights = observer_scores.sub_(lse).clamp_(max=_LARGEST_EXPONENT).exp_()
        yield _Chunk(
            layer,
            edits,
            settings,
            first,
            end,
            low,
            query,
            weights,
            seen,
            cap_slope,
            num_edits,
            observer_weights,
        )
        first = end


def _chunk_length(query_hNe: Tensor, num_before: int) -> int:
    """Queries c of a chunk whose c * (num_before + c) scores per head fit in the device's room."""
    room = _CHUNK_SCORES.get(query_hNe.device.type, _CHUNK_SCORES["cpu"]) // len(query_hNe)
    return max(16, (math.isqrt(num_before**2 + 4 * room) - num_before) // 2)


def _scores(query: Tensor, key: Tensor, settings: AttentionSettings) -> tuple[Tensor, Tensor | None]:
    """Scores [k, g*c, n] in float32, and the slope of the soft cap where there is one."""
    scores = (query @ key.transpose(-1, -2)).float().mul_(settings.scale)
    if settings.softcap is None:
        return scores, None
    capped = torch.tanh(scores / settings.softcap)
    return capped * settings.softcap, 1 - capped.square()


def _one_stretch(chunk: _Chunk, gradient_hNe: Tensor, found: LayerGradients, number: int) -> None:
    """The chunk's share of one stretch's gradients and effects, added to `found`."""
    layer, keys = chunk.layer, slice(chunk.low, chunk.end)
    gradient = chunk.folded(gradient_hNe)
    along_out = (gradient.float() * chunk.folded(layer.out).float()).sum(-1, keepdim=True)
    along_values = (gradient @ layer.value[:, keys].transpose(-1, -2)).float()
    weighted = along_values.mul_(chunk.weights)
    if chunk.num_edits:
        found.effects[: chunk.num_edits, number] += _effects(chunk, gradient, along_out, weighted)
    seen = chunk.seen
    slope = torch.addcmul(
        weighted if seen is chunk.weights else weighted * (seen != 0), seen, along_out, value=-1
    )
    if chunk.cap_slope is not None:
        slope = slope * chunk.cap_slope
    slope = slope.mul_(chunk.settings.scale).to(chunk.query.dtype)
    query_gradient = slope @ layer.key[:, keys]
    num_heads = len(layer.query)
    found.query[number, :, chunk.first : chunk.end] = query_gradient.view(
        num_heads, -1, query_gradient.shape[-1]
    )
    found.key[number, :, keys] += slope.transpose(-1, -2) @ chunk.query
    found.value[number, :, keys] += seen.to(gradient.dtype).transpose(-1, -2) @ gradient


def _effects(chunk: _Chunk, gradient: Tensor, along_out: Tensor, weighted: Tensor) -> Tensor:
    """Change of the stretch's loss by each of the chunk's edits [E], float64."""
    num_observers = chunk.observer_weights.shape[-1]
    along_new = (gradient @ chunk.layer.observer_value[:, :num_observers].transpose(-1, -2)).float()
    weighted_new = along_new.mul_(chunk.observer_weights)
    of_window = _seen_anew if chunk.settings.window is not None else _seen_throughout
    change = of_window(chunk, along_out, weighted, weighted_new)
    ends_E = torch.tensor(chunk.edits.ends[: chunk.num_edits], device=change.device)
    index_c = torch.arange(chunk.first, chunk.end, device=change.device)
    change = change.view(-1, chunk.end - chunk.first, chunk.num_edits)
    return change.masked_fill(index_c[:, None] < ends_E, 0.0).double().sum(dim=(0, 1))


def _seen_throughout(chunk: _Chunk, along_out: Tensor, weighted: Tensor, weighted_new: Tensor) -> Tensor:
    """g . (o' - o) [k, g*c, E] where a query sees every entry before it."""
    edits, number = chunk.edits, chunk.num_edits
    bounds = sorted({0, *edits.firsts[:number], *edits.ends[:number]})
    place = {bound: i for i, bound in enumerate(bounds)}
    device = weighted.device
    first_E = torch.tensor([place[first] for first in edits.firsts[:number]], device=device)
    end_E = torch.tensor([place[end] for end in edits.ends[:number]], device=device)
    runs = _runs([b - a for a, b in itertools.pairwise(bounds)])

    def taken(tensor: Tensor) -> Tensor:
        sums = _summed(tensor, runs)
        total = torch.nn.functional.pad(sums.cumsum(-1), (1, 0))
        return total[..., end_E] - total[..., first_E]

    observers = _runs(edits.num_observers[:number])
    mass, new_mass = taken(chunk.weights), _summed(chunk.observer_weights, observers)
    moved = (mass - new_mass) * along_out - taken(weighted) + _summed(weighted_new, observers)
    return moved / (1 - mass + new_mass).clamp_(min=_SMALLEST_MASS)


def _seen_anew(chunk: _Chunk, along_out: Tensor, weighted: Tensor, weighted_new: Tensor) -> Tensor:
    """g . (o' - o) [k, g*c, E] of a local layer, whose window counts the entries of the edited context.

    A query that reaches back to the edit sees more or fewer entries before it afterwards.
    """
    edits, number, window = chunk.edits, chunk.num_edits, chunk.settings.window
    assert window is not None
    device = weighted.device
    first_E, end_E, count_E, observer_end_E = (
        torch.tensor(values[:number], device=device)
        for values in (edits.firsts, edits.ends, edits.num_observers, edits.observer_ends)
    )
    index_c1 = torch.arange(chunk.first, chunk.end, device=device)[:, None]
    oldest_cE = index_c1 + (count_E - (end_E - first_E)) - window + 1
    before_cE = torch.minimum(oldest_cE, first_E).clamp(min=chunk.low)
    after_cE = torch.maximum(index_c1 - window + 1, end_E)
    hidden_cE = torch.minimum((oldest_cE - first_E).clamp(min=0), count_E)
    # An edit that begins before the chunk's keys has nothing before it that a query could see.
    first_cE = first_E.clamp(min=chunk.low).expand_as(before_cE)
    num_kv_heads = len(weighted)

    def between(tensor: Tensor, low_cE: Tensor, high_cE: Tensor, offset: int) -> Tensor:
        total = torch.nn.functional.pad(tensor.cumsum(-1), (1, 0))
        total = total.view(num_kv_heads, -1, len(index_c1), total.shape[-1])
        shape = (*total.shape[:3], number)
        high, low = (total.gather(-1, (at - offset).expand(shape)) for at in (high_cE, low_cE))
        return (high - low).view(num_kv_heads, -1, number)

    def left(tensor: Tensor, new: Tensor) -> Tensor:
        older = between(tensor, before_cE, first_cE, chunk.low)
        newer = between(tensor, after_cE.clamp(max=chunk.end), (index_c1 + 1).expand_as(after_cE), chunk.low)
        return (
            older
            + newer
            + between(new, observer_end_E - count_E + hidden_cE, observer_end_E.expand_as(hidden_cE), 0)
        )

    mass = left(chunk.weights, chunk.observer_weights).clamp_(min=_SMALLEST_MASS)
    change = left(weighted, weighted_new) / mass - along_out
    touched_cE = (index_c1 - window + 1 < end_E).expand_as(before_cE)
    change = change.view(num_kv_heads, -1, *touched_cE.shape)
    return change.masked_fill(~touched_cE, 0.0).view(num_kv_heads, -1, number)


def _runs(widths: Sequence[int]) -> list[tuple[int, int]]:
    """(width, how many of it in a row), in order."""
    runs: list[tuple[int, int]] = []
    for width in widths:
        if runs and runs[-1][0] == width:
            runs[-1] = (width, runs[-1][1] + 1)
        else:
            runs.append((width, 1))
    return runs


def _summed(tensor: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """Sums over groups of the last dimension that lie side by side from its beginning on."""
    parts, at = [], 0
    for width, count in runs:
        part = tensor[..., at : at + width * count]
        parts.append(part.reshape(*tensor.shape[:-1], count, width).sum(-1))
        at += width * count
    return torch.cat(parts, dim=-1) if parts else tensor[..., :0]


def observer_attention(
    layer: LayerTensors, query_hMe: Tensor, edits: ObservedEdits, chosen: slice, settings: AttentionSettings
) -> Tensor:
    """Attention output [h, M, e] of the observers of the edits `chosen`, whose queries these are.

    Each sees what stands before its edit and the observers of its own edit up to itself; nobody sees it.
    `layer.observer_key` holds the chosen edits' observers alone.
    """
    device, num_kv_heads = query_hMe.device, len(layer.key)
    count_E = torch.tensor(edits.num_observers[chosen], device=device)
    edit_M = torch.repeat_interleave(torch.arange(len(count_E), device=device), count_E)
    start_M = (count_E.cumsum(0) - count_E)[edit_M]
    first_M = torch.tensor(edits.firsts[chosen], device=device)[edit_M]
    rank_M = torch.arange(len(edit_M), device=device) - start_M
    index_M, outs = first_M + rank_M, []
    room = _CHUNK_SCORES.get(device.type, _CHUNK_SCORES["cpu"])
    per_chunk = max(16, room // (len(query_hMe) * (max(edits.firsts, default=0) + 64)))
    for first in range(0, len(edit_M), per_chunk):
        rows = slice(first, min(first + per_chunk, len(edit_M)))
        own = slice(int(start_M[first]), rows.stop)
        num_before = int(first_M[rows].max())
        query = _folded(query_hMe, rows.start, rows.stop, num_kv_heads)
        before, _ = _scores(query, layer.key[:, :num_before], settings)
        among, _ = _scores(query, layer.observer_key[:, own], settings)
        index_n = torch.arange(num_before, device=device)
        hidden = index_n >= first_M[rows, None]
        hidden_own = (edit_M[own] != edit_M[rows, None]) | (rank_M[own] > rank_M[rows, None])
        if settings.window is not None:
            hidden |= index_n <= index_M[rows, None] - settings.window
            hidden_own |= index_M[own] <= index_M[rows, None] - settings.window
        scores = torch.cat([before, among], -1).view(
            num_kv_heads, -1, rows.stop - rows.start, num_before + own.stop - own.start
        )
        scores = scores.masked_fill(torch.cat([hidden, hidden_own], -1), -torch.inf)
        weights = torch.softmax(scores, -1).to(query.dtype).view(num_kv_heads, query.shape[1], -1)
        values = torch.cat([layer.value[:, :num_before], layer.observer_value[:, own]], 1)
        outs.append((weights @ values).view(len(query_hMe), -1, values.shape[-1]))
    return torch.cat(outs, 1)


def causal_attention(
    query_hNe: Tensor, key_kNe: Tensor, value_kNe: Tensor, settings: AttentionSettings
) -> tuple[Tensor, Tensor]:
    """Attention [h, N, e] of a context and its log-sum-exp [h, N], with local windows and soft caps."""
    num_heads, num_kv_heads, N = len(query_hNe), len(key_kNe), query_hNe.shape[1]
    outs, lses, first = [], [], 0
    while first < N:
        low = 0 if settings.window is None else max(0, first - settings.window + 1)
        end = min(N, first + _chunk_length(query_hNe, first - low))
        scores, _ = _scores(_folded(query_hNe, first, end, num_kv_heads), key_kNe[:, low:end], settings)
        index_n = torch.arange(low, end, device=scores.device)
        index_c1 = torch.arange(first, end, device=scores.device)[:, None]
        hidden = index_n > index_c1
        if settings.window is not None:
            hidden |= index_n <= index_c1 - settings.window
        scores = scores.view(num_kv_heads, -1, end - first, end - low).masked_fill(hidden, -torch.inf)
        lse = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - lse[..., None]).to(value_kNe.dtype)
        out = weights.flatten(1, 2) @ value_kNe[:, low:end]
        outs.append(out.view(num_heads, end - first, -1))
        lses.append(lse.view(num_heads, end - first))
        first = end
    return torch.cat(outs, 1), torch.cat(lses, 1)
