"""Spans of a context that give way to a few of their own positions, the anchors.

Two kinds of gists keep anchors. An *extractive* gist is a run of a span's tokens: the rest is left out and
the anchors are read again where they stand (re-encoded). A *key-value* gist is the keys and values that the
document's own pass has computed at the anchors: a span's tokens see their span and whatever is visible before
it, later entries see its anchors alone (kept).

Whatever gives way, the context's first token stays visible: a model leans on its first entry as an attention
sink (Xiao et al. 2023), and without it every comparison of gists is one of contexts without a sink.

Shapes: T tokens of the context, A anchors, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mctrace.context.lod_map import LODMap

_CHUNK = {"cpu": 256, "cuda": 4096}
"""rows of logits that are in float32 at once, by kind of device"""
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Tokens [first, end) of a context, of which only `anchors` stay, in order."""

    first: int
    end: int
    anchors: tuple[int, ...] = ()


Anchors = Callable[[FloatArray, int, int], tuple[int, ...]]
"""(surprisal [T], first, end) to a span's anchors in order"""


@dataclass(frozen=True)
class InformativeRun:
    """The `num_anchors` tokens in a row that together are the most surprising; the last of equals."""

    num_anchors: int

    def __call__(self, surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        width = min(self.num_anchors, end - first)
        sums = np.convolve(surprisal_T[first:end].astype(np.float64), np.ones(width), mode="valid")
        place = first + len(sums) - 1 - int(np.argmax(sums[::-1]))
        return tuple(range(place, place + width))


@dataclass(frozen=True)
class LastAndSurprising:
    """The last token, which has seen the whole span, then the most surprising others."""

    num_anchors: int

    def __call__(self, surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        order = np.argsort(-surprisal_T[first : end - 1], kind="stable")[: self.num_anchors - 1]
        return (*sorted(first + int(place) for place in order), end - 1)


def surprisal(logits_TV: Tensor, tokens_T: Tensor) -> FloatArray:
    """NLL [T] of each token in nats given all before it; 0 for the first, which nothing predicts."""
    chunk = _CHUNK.get(logits_TV.device.type, _CHUNK["cpu"])
    chunks = zip(torch.split(logits_TV[:-1], chunk), torch.split(tokens_T[1:], chunk), strict=True)
    nll = [
        cross_entropy(logits_cV.float(), targets_c.to(logits_cV.device), reduction="none")
        for logits_cV, targets_c in chunks
    ]
    found: FloatArray = torch.cat([logits_TV.new_zeros(1, dtype=torch.float32), *nll]).cpu().numpy()
    return found


def collapsed_spans(lod_map: LODMap, surprisal_T: FloatArray, anchors: Anchors | None) -> tuple[Span, ...]:
    """The spans of the map's gists with their anchors; none with `anchors` None. The map starts at token 0.

    `surprisal_T` is each token's NLL in the document's own pass, nats: a span's anchors do not depend on how
    the rest of the context is represented.
    """
    assert lod_map.start == 0, "spans are counted from the start of the context"
    entries = lod_map.entries
    found = []
    for place in np.flatnonzero(entries.level_N > 0):
        first, end = int(entries.first_token_N[place]), int(entries.end_token_N[place])
        found.append(Span(first, end, anchors(surprisal_T, first, end) if anchors else ()))
    return tuple(found)


def kept_tokens(spans: Sequence[Span], num_tokens: int) -> IntArray:
    """Tokens that later ones can see, in order: those outside of the spans, the anchors and token 0."""
    is_kept_T = np.ones(num_tokens, dtype=bool)
    for span in spans:
        is_kept_T[span.first : span.end] = False
        is_kept_T[list(span.anchors)] = True
    is_kept_T[0] = True
    return np.flatnonzero(is_kept_T)


def visible_tokens(spans: Sequence[Span], num_tokens: int, device: torch.device) -> Tensor:
    """Bool [T, T], row i what token i sees of tokens up to itself: its own span and `kept_tokens`."""
    span_T = np.full(num_tokens, -1, dtype=np.int32)
    for number, span in enumerate(spans):
        span_T[span.first : span.end] = number
    is_kept_T = np.zeros(num_tokens, dtype=bool)
    is_kept_T[kept_tokens(spans, num_tokens)] = True
    number_T, seen_T = (torch.from_numpy(values).to(device) for values in (span_T, is_kept_T))
    # Outside of the spans everything is kept, so that equal numbers there say nothing new.
    return (seen_T[None] | (number_T[:, None] == number_T[None])).tril_()


def anchor_places(spans: Sequence[Span]) -> Tensor:
    """Places [A] of all anchors, in order."""
    return torch.tensor([place for span in spans for place in span.anchors], dtype=torch.long)
