"""Tokenisation in pieces: the same ids as of the whole text, in the memory of one piece.

A tokenizer looks around: words, runs of spaces and merges cross any place where a text could be cut. So
neighbouring windows of the text overlap, and one is left for the next only in the middle of a stretch in
which both give the same tokens at the same places, away from either one's end. The distance between two
windows' ends leaves a remainder of 1 by every number up to ten, so that what depends on where a text ends
(digits grouped in threes from the right, say) shows as a difference. Where two windows do not agree, the
first one grows, in the worst case to the whole text: slower, never other tokens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_PERIOD = 2520
"""The least number that every number up to ten divides."""
STEP = 13 * _PERIOD + 1
"""Characters by which a window ends behind the one before."""
OVERLAP = 4_096
"""Characters that neighbouring windows share; they are compared in the middle half of them."""
_MIN_AGREEING = 4
"""Tokens that have to agree."""

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Window:
    """Tokens of a stretch of text: ids and the characters [start, end) each stands for."""

    ids: IntArray
    starts: IntArray
    ends: IntArray

    def within(self, first: int, end: int) -> slice:
        """The tokens that lie in the characters [first, end); tokens are in the order of their places."""
        return slice(
            int(np.searchsorted(self.starts, first)), int(np.searchsorted(self.ends, end, side="right"))
        )

    @property
    def is_in_order(self) -> bool:
        return bool((np.diff(self.starts) >= 0).all() and (np.diff(self.ends) >= 0).all())


def encode_pieces(
    tokenizer: Any,
    pieces: Iterable[str],
    most_tokens: int,
    *,
    step: int = STEP,
    overlap: int = OVERLAP,
) -> IntArray:
    """The first `most_tokens` ids of the text that `pieces` make up; reads no more of it than that takes."""
    if not getattr(tokenizer, "is_fast", False):  # it cannot say where its tokens lie in the text
        return _encode(tokenizer, "".join(pieces))[:most_tokens].copy()
    reader = _Reader(pieces)
    text, more = reader.read(step + overlap), reader.read(step)
    if not more:
        return _encode(tokenizer, text)[:most_tokens].copy()
    window = _encode_with_places(tokenizer, text)
    done: list[IntArray] = []
    first = num_done = 0
    while more and num_done < most_tokens:
        begin = _boundary_before(window, len(text) - overlap)
        later_text = text[begin:] + more
        later = _encode_with_places(tokenizer, later_text)
        cut = _cut(window, later, begin, len(text), overlap)
        if cut is None or cut[0] < first:
            text += more
            window = _encode_with_places(tokenizer, text)
            # In steps that double, so that a text which can be cut nowhere is encoded few times.
            more = reader.read(len(text) // _PERIOD * _PERIOD + 1)
            continue
        done.append(window.ids[first : cut[0]])
        num_done += len(done[-1])
        first, text, window = cut[1], later_text, later
        more = reader.read(step)
    done.append(window.ids[first:])
    return np.concatenate(done)[:most_tokens].copy()


def _encode(tokenizer: Any, text: str) -> IntArray:
    # verbose=False: a document longer than the model is expected here, contexts are cut from it later.
    return np.asarray(tokenizer.encode(text, add_special_tokens=False, verbose=False), dtype=np.int32)


def _encode_with_places(tokenizer: Any, text: str) -> _Window:
    found = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    places = np.asarray(found["offset_mapping"], dtype=np.int32).reshape(-1, 2)
    return _Window(np.asarray(found["input_ids"], dtype=np.int32), places[:, 0].copy(), places[:, 1].copy())


def _boundary_before(window: _Window, place: int) -> int:
    """The last beginning of a token at or before `place`, so that a run of one character keeps its phase."""
    at = int(np.searchsorted(window.starts, place, side="right")) - 1
    return int(window.starts[at]) if at >= 0 else 0


def _cut(window: _Window, later: _Window, begin: int, end: int, overlap: int) -> tuple[int, int] | None:
    """Indices of one token in both windows, from which on the later one stands for the text; None where they
    do not agree.

    `begin` is where the later window begins in the text of the first one, `end` where that one ends.
    """
    if not (window.is_in_order and later.is_in_order):
        return None
    margin = overlap // 4
    a = window.within(end - overlap + margin, end - margin)
    b = later.within(end - overlap + margin - begin, end - margin - begin)
    num = a.stop - a.start
    if num < _MIN_AGREEING or num != b.stop - b.start:
        return None
    same = (
        np.array_equal(window.ids[a], later.ids[b])
        and np.array_equal(window.starts[a], later.starts[b] + begin)
        and np.array_equal(window.ends[a], later.ends[b] + begin)
    )
    return (a.start + num // 2, b.start + num // 2) if same else None


class _Reader:
    """Pieces of any size as stretches of the size asked for."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces: Iterator[str] = iter(pieces)
        self._rest = ""

    def read(self, size: int) -> str:
        """The next `size` characters; fewer only at the text's end."""
        parts, num = [self._rest], len(self._rest)
        while num < size and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            num += len(piece)
        text = "".join(parts)
        self._rest = text[size:]
        return text[:size]
