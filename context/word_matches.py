"""Word matches: how well each entry of a working context matches what was read last, by token ids.

A gist is one embedding, which does not tell the rare tokens of its block; these features do, also for absent
blocks. They read the document's tokens up to the cursor and none beyond it. Ours, in no source
(docs/specification/networks.md#word-matches).

Shapes: T tokens of the document, N entries (`LODMap.nodes`), S spans, F features.
"""

import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import LODMap
from mctrace.context.shared_tokens import CountedText, FloatArray, IntArray
from mctrace.context.tree import ABSENT
from mctrace.errors import InputError

READ_BLOCKS = (2, 5)
"""blocks of newest tokens that count as what was read last: the query of retrieval, and as many as a LensNet
sees of level 1"""
NUM_WORD_MATCHES = 3 * len(READ_BLOCKS)


def word_matches(lod_map: LODMap, tokens_T: npt.NDArray[np.integer]) -> FloatArray:
    """For each of `READ_BLOCKS` three features of every entry [N, F], all ≥ 0; larger is a better match.

    BM25 of the entry's span, the rarity of the distinct tokens that it shares, summed, and a token's own
    rarity if it occurs elsewhere in what was read, else 0. The span of a token is its block's. A span never
    matches itself. Raises InputError for fewer tokens than the context covers.
    """
    if len(tokens_T) < lod_map.cursor:
        raise InputError(
            f"the context ends at token {lod_map.cursor}, and the document has the ids of {len(tokens_T)} "
            "tokens: give those of all tokens before the cursor"
        )
    text = CountedText.of(tokens_T[lod_map.start : lod_map.cursor], lod_map.tree.block_size)
    span_N, first_S, end_S = _spans(lod_map)
    place_N = lod_map.nodes.first_token_N - lod_map.start
    rarity_T = np.log(text.num_blocks / text.num_holding_U)[text.code_T]
    rarity_N = np.where(lod_map.nodes.level_N == 0, rarity_T[place_N], 0.0)
    features = []
    for num_blocks in READ_BLOCKS:
        read_from = max(0, len(text.code_T) - num_blocks * text.block_size)
        read = range(read_from, len(text.code_T))
        shared = text.shared(read, first_S, end_S)
        features += [shared.summed(value_P)[span_N] for value_P in (shared.bm25_P, shared.rarity_P)]
        num_elsewhere_N = text.num_read_U(read)[text.code_T[place_N]] - (place_N >= read_from)
        features.append(rarity_N * (num_elsewhere_N > 0))
    return np.stack(features, axis=1)


def _spans(lod_map: LODMap) -> tuple[IntArray, IntArray, IntArray]:
    """Index of each entry's span [N], and the spans' ends [S], in tokens from the context's start."""
    nodes, size = lod_map.nodes, lod_map.tree.block_size
    is_block_N = (nodes.level_N == 0) | (nodes.level_N == ABSENT)
    width_N = size ** np.where(is_block_N, 1, nodes.level_N)
    first_N = nodes.first_token_N // width_N * width_N - lod_map.start
    begins_N = np.diff(first_N, prepend=-1) != 0
    first_S = first_N[begins_N]
    end_S = np.minimum(first_S + width_N[begins_N], lod_map.cursor - lod_map.start)
    return np.cumsum(begins_N) - 1, first_S, end_S
