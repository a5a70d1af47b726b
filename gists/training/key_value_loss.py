"""Loss of key-value gists: KL to the model in full context, for every gist of a window in one pass.

In the student's pass a collapsed block's tokens see their block and what is visible before it, all later
tokens see its anchors alone, and the adapters act at anchors. Scored are the visible tokens behind the first
gist and the copies from their `copy_skip`-th token on, each predicted from a visible token: which block a
copy repeats shows in its first tokens. Deletion is the same window with no anchors.

Windows of equal length share a pass, as many as `windows_per_pass` says.

Shapes: B windows of a pass, T tokens of each, S scored tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import masked_batch_logits
from mctrace.gists.config import KeyValueTrainConfig, Match
from mctrace.gists.network.anchored_spans import (
    FloatArray,
    LastAndSurprising,
    Span,
    anchor_places,
    collapsed_spans,
    kept_tokens,
    surprisal,
    visible_tokens,
)
from mctrace.gists.network.key_value_gistnet import KeyValueGistNet
from mctrace.gists.training.key_value_windows import KeyValueWindow
from mctrace.gists.training.substitutability import substitution_loss

_Values = Mapping[str, float]


@dataclass(frozen=True)
class Teaching:
    """What a window's full context says: the spans with their anchors, the scored tokens `token_S`, which of
    them are copies, and the model's logits [S, V] for them."""

    spans: tuple[Span, ...]
    token_S: Tensor
    is_copy_S: Tensor
    logits_SV: Tensor


@dataclass(frozen=True)
class ValidationWindow:
    """A validation window with the loss of deletion, which no gist changes: KL, and NLL of the copies."""

    window: KeyValueWindow
    deleted_kl: float
    deleted_copy_nll: float


def key_value_loss(
    gistnet: KeyValueGistNet, model: FrozenCausalLM, config: KeyValueTrainConfig
) -> Callable[[Sequence[KeyValueWindow]], _Values]:
    """`compute_gradients` for the optimisation loop: leaves the mean gradient of a step's windows.

    The graph of one pass is in memory at a time, however many windows a step averages over.
    """

    def compute_gradients(windows: Sequence[KeyValueWindow]) -> _Values:
        total = 0.0
        for places in _passes(windows, config):
            together = [windows[place] for place in places]
            teachings = teach(model, together, config)
            logits_SV = student_logits(gistnet, model, together, teachings)
            kl = [kl_S.mean() for kl_S in _losses(logits_SV, together, teachings, "kl")]
            loss = torch.stack(kl).sum() / len(windows)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += loss.item()
        return {"loss": total}

    return compute_gradients


def teach(
    model: FrozenCausalLM, windows: Sequence[KeyValueWindow], config: KeyValueTrainConfig
) -> list[Teaching]:
    """Run windows of equal length in full."""
    logits_BTV = model.whole_logits(model.embed(torch.stack([window.tokens_T for window in windows])))
    return [
        _teaching(window, logits_TV, config) for window, logits_TV in zip(windows, logits_BTV, strict=True)
    ]


def _teaching(window: KeyValueWindow, logits_TV: Tensor, config: KeyValueTrainConfig) -> Teaching:
    surprisal_T = surprisal(logits_TV, window.tokens_T)
    numbers = dict(zip(_firsts(window), window.num_anchors, strict=True))

    def anchors(surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        return LastAndSurprising(numbers[first])(surprisal_T, first, end)

    spans = collapsed_spans(window.lod_map, surprisal_T, anchors)
    token_S, is_copy_S = scored_tokens(window, spans, config.copy_skip)
    places_S = token_S.to(logits_TV.device)
    return Teaching(spans, places_S, is_copy_S.to(logits_TV.device), logits_TV[places_S - 1])


def scored_tokens(window: KeyValueWindow, spans: Sequence[Span], skip: int) -> tuple[Tensor, Tensor]:
    """Scored tokens [S] in order, and which are copies."""
    num_tokens, width = len(window.tokens_T), window.lod_map.tree.block_size
    outside_T = np.ones(num_tokens, dtype=bool)
    for span in spans:
        outside_T[span.first : span.end] = False
    is_scored_T = outside_T.copy()
    is_scored_T[1:] &= outside_T[:-1]
    is_scored_T[: spans[0].end] = False
    is_copy_T = np.arange(num_tokens) >= window.first_copy
    for copy in range(window.num_copies):
        first = window.first_copy + copy * width
        is_scored_T[first : first + min(skip, width - 1)] = False
    token_S = np.flatnonzero(is_scored_T)
    return torch.from_numpy(token_S), torch.from_numpy(is_copy_T[token_S])


def student_logits(
    gistnet: KeyValueGistNet,
    model: FrozenCausalLM,
    windows: Sequence[KeyValueWindow],
    teachings: Sequence[Teaching],
) -> Tensor:
    """Logits [S, V] of all windows where the spans give way to their adapted anchors; differentiable in the
    adapters."""
    tokens_BT, device = torch.stack([window.tokens_T for window in windows]), model.device
    num_windows, num_tokens = tokens_BT.shape
    firsts = range(0, num_windows * num_tokens, num_tokens)
    anchors = [anchor_places(one.spans) + first for first, one in zip(firsts, teachings, strict=True)]
    read = [one.token_S - 1 + first for first, one in zip(firsts, teachings, strict=True)]
    return masked_batch_logits(
        model.network,
        model.embed(tokens_BT).clone(),  # `embed` returns tensors made in inference mode
        torch.arange(num_tokens, device=device).expand(num_windows, -1),
        torch.stack([visible_tokens(one.spans, num_tokens, device) for one in teachings]),
        torch.cat(read),
        gistnet.changes(torch.cat(anchors).to(device)),
    )


@torch.no_grad()
def deleted_logits(model: FrozenCausalLM, window: KeyValueWindow, teaching: Teaching) -> Tensor:
    """Logits [S, V] with the spans left out and every other token in its place."""
    spans = [Span(span.first, span.end) for span in teaching.spans]
    kept_N = torch.from_numpy(kept_tokens(spans, len(window.tokens_T))).to(model.device)
    entry_S = torch.searchsorted(kept_N, teaching.token_S - 1)
    return model.logits(model.embed(window.tokens_T)[kept_N], kept_N, entry_S)


@torch.no_grad()
def with_deletion(
    model: FrozenCausalLM, windows: Sequence[KeyValueWindow], config: KeyValueTrainConfig
) -> list[ValidationWindow]:
    """The validation windows with deletion's losses."""
    found = []
    for window in windows:
        (teaching,) = teach(model, [window], config)
        logits_SV = deleted_logits(model, window, teaching)
        ((kl, copy_nll),) = _kl_and_copies(logits_SV, [window], [teaching])
        found.append(ValidationWindow(window, kl, copy_nll))
    return found


@torch.no_grad()
def key_value_validation(
    gistnet: KeyValueGistNet,
    model: FrozenCausalLM,
    windows: Sequence[ValidationWindow],
    config: KeyValueTrainConfig,
) -> dict[str, float]:
    """Means over windows, nats per token: `loss`, the KL; `less_deleted`, the KL less deletion's on the same
    window, with its standard error; `copy_less_deleted`, likewise the NLL of the copies."""
    kl, less, copies = [], [], []
    for places in _passes([item.window for item in windows], config):
        items = [windows[place] for place in places]
        together = [item.window for item in items]
        teachings = teach(model, together, config)
        logits_SV = student_logits(gistnet, model, together, teachings)
        for item, found in zip(items, _kl_and_copies(logits_SV, together, teachings), strict=True):
            kl.append(found[0])
            less.append(found[0] - item.deleted_kl)
            copies.append(found[1] - item.deleted_copy_nll)
    return {
        "loss": float(np.mean(kl)),
        "less_deleted": float(np.mean(less)),
        "less_deleted_error": float(np.std(less) / np.sqrt(len(less))),
        "copy_less_deleted": float(np.mean(copies)),
        "copy_less_deleted_error": float(np.std(copies) / np.sqrt(len(copies))),
    }


def _kl_and_copies(
    logits_SV: Tensor, windows: Sequence[KeyValueWindow], teachings: Sequence[Teaching]
) -> list[tuple[float, float]]:
    """Each window's mean KL to the full context, and mean NLL of its copies."""
    both = zip(*(_losses(logits_SV, windows, teachings, match) for match in ("kl", "nll")), strict=True)
    return [
        (float(kl_S.mean()), float(nll_S[one.is_copy_S].mean()))
        for one, (kl_S, nll_S) in zip(teachings, both, strict=True)
    ]


def _losses(
    logits_SV: Tensor, windows: Sequence[KeyValueWindow], teachings: Sequence[Teaching], match: Match
) -> Sequence[Tensor]:
    """Each window's losses [S] against what its full context says."""
    targets = [
        window.tokens_T.to(logits_SV.device)[one.token_S]
        for window, one in zip(windows, teachings, strict=True)
    ]
    teacher_SV = torch.cat([one.logits_SV for one in teachings])
    losses_S = substitution_loss(logits_SV, teacher_SV, torch.cat(targets), match)
    return torch.split(losses_S, [len(one.token_S) for one in teachings])


def _passes(windows: Sequence[KeyValueWindow], config: KeyValueTrainConfig) -> Iterator[Sequence[int]]:
    """Places of the windows, those of equal length together, at most `windows_per_pass` of them."""
    lengths = [len(window.tokens_T) for window in windows]
    for _, equal in groupby(sorted(range(len(windows)), key=lengths.__getitem__), key=lengths.__getitem__):
        places = list(equal)
        for first in range(0, len(places), config.windows_per_pass):
            yield places[first : first + config.windows_per_pass]


def _firsts(window: KeyValueWindow) -> list[int]:
    entries = window.lod_map.entries
    return [int(first) for first in entries.first_token_N[entries.level_N > 0]]
