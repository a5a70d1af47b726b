"""Tokens that spans of a text share with what is being read, and what such a match is worth.

Retrieval by token ids, nothing learned: BM25 and the rarity of shared tokens. The one definition for sampling
weights, policies of closed loops and the features of a LensNet.

Shapes: T tokens of a text, U distinct ones, S spans, P pairs of a span and a token that it shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_SATURATION, _LENGTH = 1.2, 0.75
"""k1 and b of BM25; b has no effect on blocks, which are equally long"""


@dataclass(frozen=True, eq=False)
class SharedTokens:
    """Distinct tokens of spans that occur in the text being read, outside of the span itself.

    Ordered by span, then by token id.
    """

    num_spans: int
    num_blocks: int
    """blocks counted"""
    span_P: IntArray
    frequency_P: IntArray
    """occurrences of the token in the span"""
    num_holding_P: IntArray
    """counted blocks that hold the token"""
    relative_width_P: FloatArray
    """width of the span in blocks"""

    @property
    def rarity_P(self) -> FloatArray:
        """log(blocks / blocks that hold the token)."""
        return np.log(self.num_blocks / self.num_holding_P)

    @property
    def bm25_P(self) -> FloatArray:
        """The token's term of Okapi BM25, with a span as the document and a block as the mean document.

        Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), eq. 3.15, with the idf
        log(1 + (M - n + 0.5) / (n + 0.5)), which is never negative.
        """
        idf_P = np.log1p((self.num_blocks - self.num_holding_P + 0.5) / (self.num_holding_P + 0.5))
        normaliser_P = _SATURATION * (1 - _LENGTH + _LENGTH * self.relative_width_P)
        return idf_P * self.frequency_P * (_SATURATION + 1) / (self.frequency_P + normaliser_P)

    def summed(self, value_P: FloatArray) -> FloatArray:
        """Sum over each span's tokens [S]."""
        sum_S = np.bincount(self.span_P, value_P, minlength=self.num_spans)
        return sum_S.astype(np.float64)


@dataclass(frozen=True, eq=False)
class CountedText:
    """A text with the number of its blocks that hold each token."""

    code_T: IntArray
    """the tokens, numbered from 0 in the order of their ids"""
    num_holding_U: IntArray
    num_blocks: int
    block_size: int

    @classmethod
    def of(
        cls, tokens_T: npt.NDArray[np.integer], block_size: int, num_counted: int | None = None
    ) -> "CountedText":
        """Counts blocks among the first `num_counted` tokens, all unless given; the last may be cut."""
        token_U, code_T = np.unique(tokens_T, return_inverse=True)
        num_counted = len(tokens_T) if num_counted is None else num_counted
        num_blocks = -(-num_counted // block_size)
        block_C = np.arange(num_counted) // block_size
        # Asked for counts, numpy sorts: several times as fast as the hash table that it takes otherwise.
        key_H, _ = np.unique(code_T[:num_counted] * max(num_blocks, 1) + block_C, return_counts=True)
        held = key_H // max(num_blocks, 1)
        return cls(code_T, np.bincount(held, minlength=len(token_U)), num_blocks, block_size)

    def shared(self, read: range, first_S: IntArray, end_S: IntArray) -> SharedTokens:
        """Tokens that the spans [first, end) share with the tokens of `read` outside of themselves."""
        width_S, num_tokens = end_S - first_S, len(self.num_holding_U)
        span_X = np.repeat(np.arange(len(first_S)), width_S)
        place_X = np.arange(len(span_X)) + np.repeat(first_S - (np.cumsum(width_S) - width_S), width_S)
        num_read_U = self.num_read_U(read)
        is_read_X = num_read_U[self.code_T[place_X]] > 0
        span_X, place_X = span_X[is_read_X], place_X[is_read_X]
        key_X = span_X * num_tokens + self.code_T[place_X]
        key_P, frequency_P = np.unique(key_X, return_counts=True)
        own_X = key_X[(place_X >= read.start) & (place_X < read.stop)]
        num_own_P = np.bincount(np.searchsorted(key_P, own_X), minlength=len(key_P))
        elsewhere_P = num_read_U[key_P % num_tokens] > num_own_P
        span_P, code_P = np.divmod(key_P[elsewhere_P], num_tokens)
        return SharedTokens(
            num_spans=len(first_S),
            num_blocks=self.num_blocks,
            span_P=span_P,
            frequency_P=frequency_P[elsewhere_P],
            num_holding_P=self.num_holding_U[code_P],
            relative_width_P=width_S[span_P] / self.block_size,
        )

    def num_read_U(self, read: range) -> IntArray:
        """Occurrences of each token in `read` [U]."""
        return np.bincount(self.code_T[read.start : read.stop], minlength=len(self.num_holding_U))


def overlaps(
    tokens_T: npt.NDArray[np.integer],
    text: range,
    read: range,
    spans: Sequence[tuple[int, int]],
    block_size: int,
) -> FloatArray:
    """Per span [S] the sum of log(blocks / blocks that hold the token) over distinct tokens that it shares.

    With `read`, as far as that lies in the `text` whose blocks are counted; both end at the same token. A
    span that is itself being read shares with the rest of it alone.
    """
    counted = CountedText.of(tokens_T[text.start : text.stop], block_size)
    first_S, end_S = (np.array(spans, dtype=np.int64).reshape(-1, 2) - text.start).T
    shared = counted.shared(range(max(0, read.start - text.start), len(text)), first_S, end_S)
    # Plans hash probabilities that are made of these sums, to the last bit: each is numpy's own sum.
    of_spans = np.split(shared.rarity_P, np.searchsorted(shared.span_P, np.arange(1, len(spans))))
    return np.array([float(rarity.sum()) for rarity in of_spans[: len(spans)]])


def bm25(blocks_MK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> FloatArray:
    """Okapi BM25 of each block [M] for the distinct tokens of the query; only the blocks are counted."""
    num_blocks, size = blocks_MK.shape
    text = CountedText.of(np.concatenate([blocks_MK.ravel(), query_Q]), max(size, 1), blocks_MK.size)
    first_M = np.arange(num_blocks) * size
    shared = text.shared(range(blocks_MK.size, blocks_MK.size + len(query_Q)), first_M, first_M + size)
    return shared.summed(shared.bm25_P)


def rare_words(blocks_MK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> FloatArray:
    """Rarity of the tokens that each block shares with the query [M], as `overlaps` counts it."""
    if not len(blocks_MK):
        return np.zeros(0)
    num_blocks, size = blocks_MK.shape
    tokens_T = np.concatenate([blocks_MK.ravel(), query_Q])
    spans = [(first, first + size) for first in range(0, num_blocks * size, size)]
    read = range(num_blocks * size, len(tokens_T))
    return overlaps(tokens_T, range(len(tokens_T)), read, spans, size)
