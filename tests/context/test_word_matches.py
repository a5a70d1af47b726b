"""Word matches against a slow transcription; no look-ahead; a span never matches itself."""

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.lod_map import LODMap
from mctrace.context.shared_tokens import bm25, overlaps, rare_words
from mctrace.context.tree import ABSENT, TreeShape
from mctrace.context.word_matches import NUM_WORD_MATCHES, READ_BLOCKS, word_matches
from mctrace.errors import InputError
from tests.context.strategies import legal_maps, light

SPAN, RARITY, OWN = 0, 1, 2
"""columns of each of `READ_BLOCKS`"""
LAST = 3 * (len(READ_BLOCKS) - 1)
"""first column of the longest text read"""


def slowly(lod_map: LODMap, tokens: list[int]) -> np.ndarray:
    """The definition, entry by entry and token by token."""
    start, cursor, size = lod_map.start, lod_map.cursor, lod_map.tree.block_size
    blocks = [set(tokens[at : min(at + size, cursor)]) for at in range(start, cursor, size)]
    holding = Counter(token for block in blocks for token in block)
    nodes, rows = lod_map.nodes, []
    for level, first_token in zip(nodes.level_N.tolist(), nodes.first_token_N.tolist(), strict=True):
        width = size if level in (0, ABSENT) else size**level
        first = first_token // width * width
        end = min(first + width, cursor)
        row = []
        for num_blocks in READ_BLOCKS:
            read = range(max(start, cursor - num_blocks * size), cursor)
            elsewhere = {tokens[at] for at in read if not first <= at < end}
            found, rarity = 0.0, 0.0
            for token, count in Counter(tokens[first:end]).items():
                if token in elsewhere:
                    n = holding[token]
                    idf = log(1 + (len(blocks) - n + 0.5) / (n + 0.5))
                    k = 1.2 * (1 - 0.75 + 0.75 * (end - first) / size)
                    found += idf * count * 2.2 / (count + k)
                    rarity += log(len(blocks) / n)
            token = tokens[first_token]
            others = {tokens[at] for at in read if at != first_token}
            own = log(len(blocks) / holding[token]) if level == 0 and token in others else 0.0
            row += [found, rarity, own]
        rows.append(row)
    return np.array(rows)


@light
@given(legal_maps(), st.integers(0, 2**31))
def test_features_equal_the_slow_definition(lod_map, seed):
    rng = np.random.default_rng(seed)
    tokens_T = rng.integers(0, rng.integers(2, 60), lod_map.cursor + 3)
    found_NF = word_matches(lod_map, tokens_T)
    assert found_NF.shape == (len(lod_map.nodes), NUM_WORD_MATCHES)
    np.testing.assert_allclose(found_NF, slowly(lod_map, tokens_T.tolist()), atol=1e-9)
    assert (found_NF >= 0).all()


@pytest.mark.parametrize("cursor", [64, 62])
def test_absent_blocks_match_as_gists_of_theirs_do(cursor):
    tree, rng = TreeShape(4, 2, "tokens"), np.random.default_rng(0)
    tokens_T = rng.integers(0, 20, 80)
    levels = np.zeros(16, dtype=np.uint8)
    levels[[1, 4, 5]] = ABSENT
    absent = LODMap(tree, 0, cursor, levels)
    found_NF = word_matches(absent, tokens_T)
    np.testing.assert_allclose(found_NF, slowly(absent, tokens_T.tolist()), atol=1e-9)
    gists = LODMap(tree, 0, cursor, np.where(levels == ABSENT, 1, levels))
    np.testing.assert_array_equal(found_NF, word_matches(gists, tokens_T))
    assert found_NF[absent.nodes.level_N == ABSENT, SPAN].any()


@light
@given(legal_maps(), st.integers(0, 2**31))
def test_only_tokens_between_start_and_cursor_are_read(lod_map, seed):
    rng = np.random.default_rng(seed)
    tokens_T = rng.integers(0, 30, lod_map.cursor + 64)
    other_T = rng.integers(0, 30, lod_map.cursor + 64)
    seen = slice(lod_map.start, lod_map.cursor)
    other_T[seen] = tokens_T[seen]
    for changed_T in (other_T, tokens_T[: lod_map.cursor]):
        np.testing.assert_array_equal(word_matches(lod_map, tokens_T), word_matches(lod_map, changed_T))


def test_a_name_read_last_finds_its_block_and_no_block_finds_itself():
    tree, tokens_T = TreeShape(4, 1), np.arange(100, 164)
    tokens_T[[9, 62]] = 7  # a name in block 2 and in the last one
    tokens_T[[56, 57]] = 8  # a repetition within block 14, which is read
    levels = np.ones(16, dtype=np.uint8)
    levels[12:] = 0
    found_NF = word_matches(LODMap(tree, 0, 64, levels), tokens_T)
    by_gist_F = found_NF[:12, LAST + SPAN : LAST + OWN].sum(axis=1)
    assert np.flatnonzero(by_gist_F).tolist() == [2]
    tokens_NF = found_NF[12:]
    assert np.flatnonzero(tokens_NF[:, LAST + OWN]).tolist() == [8, 9], "each elsewhere, within the block"
    assert not tokens_NF[:, LAST + SPAN].any(), "block 14 matches itself alone, and block 2 is not read"


def test_ids_that_end_before_the_cursor_are_refused():
    with pytest.raises(InputError, match=r"ends at token 32, and the document has the ids of 31 tokens"):
        word_matches(LODMap.of_tokens(TreeShape(4, 1), 0, 32), np.arange(31))


@light
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**31))
def test_retrieval_scores_of_blocks_equal_their_definitions(num_blocks, num_read, seed):
    rng = np.random.default_rng(seed)
    blocks_MK, query_Q = rng.integers(0, 25, (num_blocks, 4)), rng.integers(0, 25, num_read)
    sets = [set(block) for block in blocks_MK.tolist()]
    expected = np.zeros(num_blocks)
    for token in set(query_Q.tolist()):
        n = sum(token in one for one in sets)
        for number, block in enumerate(blocks_MK.tolist()):
            count = block.count(token)
            expected[number] += log(1 + (num_blocks - n + 0.5) / (n + 0.5)) * count * 2.2 / (count + 1.2)
    np.testing.assert_allclose(bm25(blocks_MK, query_Q), expected, atol=1e-12)
    text = np.concatenate([blocks_MK.ravel(), query_Q])
    whole = [set(text[at : at + 4].tolist()) for at in range(0, len(text), 4)]
    rarity = {token: log(len(whole) / sum(token in one for one in whole)) for token in text.tolist()}
    shared = [sum(rarity[token] for token in one & set(query_Q.tolist())) for one in sets]
    np.testing.assert_allclose(rare_words(blocks_MK, query_Q), shared, atol=1e-12)


def test_spans_may_lie_within_each_other():
    tokens_T = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 5, 9])
    nested, apart = (
        overlaps(tokens_T, range(12), range(8, 12), spans, 4)
        for spans in ([(0, 4), (0, 8), (4, 8), (8, 12)], [(0, 4), (4, 8)])
    )
    np.testing.assert_allclose(nested, [log(3 / 2), 2 * log(3 / 2), log(3 / 2), 0.0])
    np.testing.assert_allclose(nested[[0, 2]], apart)
    assert overlaps(tokens_T, range(12), range(8, 12), [], 4).shape == (0,)
