"""Relevance of blocks of text to what was read last: BM25 and rare words, over token ids.

Shapes: M blocks of K tokens, Q tokens read last.
"""

import numpy as np
import numpy.typing as npt

from mctrace.collect.planning.word_overlap import overlaps
from mctrace.context.allocator_candidates import FloatArray

_SATURATION = 1.2
"""k1 of BM25; its b has no effect, since all blocks are equally long"""


def bm25(blocks_MK: npt.NDArray[np.int64], query_Q: npt.NDArray[np.int64]) -> FloatArray:
    """Okapi BM25 of each block [M] for the distinct tokens of the query.

    Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), eq. 3.15, with the idf
    log(1 + (M - n + 0.5) / (n + 0.5)), which is never negative.
    """
    if not len(blocks_MK):
        return np.zeros(0)
    terms_U = np.unique(query_Q)
    frequency_MU = np.stack([(blocks_MK == term).sum(axis=1) for term in terms_U], axis=1)
    num_holding_U = (frequency_MU > 0).sum(axis=0)
    idf_U = np.log1p((len(blocks_MK) - num_holding_U + 0.5) / (num_holding_U + 0.5))
    saturated_MU = frequency_MU * (_SATURATION + 1) / (frequency_MU + _SATURATION)
    return np.asarray(saturated_MU @ idf_U, dtype=np.float64)


def rare_words(blocks_MK: npt.NDArray[np.int64], query_Q: npt.NDArray[np.int64]) -> FloatArray:
    """Rarity of the tokens that each block shares with the query [M], counted by `word_overlap.overlaps`."""
    if not len(blocks_MK):
        return np.zeros(0)
    num_blocks, size = blocks_MK.shape
    tokens_T = np.concatenate([blocks_MK.ravel(), query_Q])
    spans = [(first, first + size) for first in range(0, num_blocks * size, size)]
    read = range(num_blocks * size, len(tokens_T))
    return overlaps(tokens_T, range(len(tokens_T)), read, spans, size)
