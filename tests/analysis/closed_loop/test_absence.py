"""The closed loop with absent blocks: doing nothing is truncation, and retrieval shows what matches best."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop
from mctrace.analysis.closed_loop.influence import Influence
from mctrace.analysis.closed_loop.oracles import ORACLE_ALLOCATOR, Hindsight
from mctrace.analysis.closed_loop.policies import (
    Observation,
    RetrievalWindow,
    ScoredPolicy,
    TokenMatch,
    TokenWindow,
    attention_scores,
    recency_scores,
)
from mctrace.analysis.closed_loop.policy_run import run_policy
from mctrace.analysis.closed_loop.window_attention import window_attention_scores
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.planning.map_policies import truncation_map
from mctrace.context.allocator import NOTHING_RECENT, AllocatorConfig
from mctrace.context.lod_map import LODMap
from mctrace.context.shared_tokens import bm25, rare_words
from mctrace.context.tree import ABSENT, TreeShape
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.models import VOCABULARY, tiny_model

TREE = TreeShape(4, 1, "tokens")
TAIL, BUDGET = 8, 48
CONFIG = ClosedLoopConfig(w_max=52, window=160, refocuses=4, horizon=12, max_candidates=60, documents=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def document(model) -> DocumentTree:
    tokens_T = torch.randint(0, VOCABULARY, (240,), generator=torch.Generator().manual_seed(1))
    # What is read last at token 200 is what block 20 says.
    tokens_T[196:200] = tokens_T[80:84]
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))


def view_at(model, document, cursor: int = 200) -> Observation:
    lod_map = truncation_map(TREE, 40, cursor, cursor - BUDGET)
    reader = ContextReader(model, document)
    return Observation("d", document, reader, lod_map, BUDGET, TAIL, NOTHING_RECENT, Batching(2048), seed=0)


def test_recency_and_truncation_lose_the_same_and_hindsight_gains(model, document):
    policies = {
        "truncation": TokenWindow(),
        "recency": ScoredPolicy(recency_scores, AllocatorConfig()),
        "attention": ScoredPolicy(attention_scores, AllocatorConfig()),
        "hindsight": ScoredPolicy(Hindsight(60), ORACLE_ALLOCATOR),
        "bm25": RetrievalWindow(TokenMatch(bm25, 8), 2),
    }
    reader, loop, found = ContextReader(model, document), Loop(40, 196, 4, 4), {}
    for name, policy in policies.items():
        steps = run_policy(policy, reader, "d", loop, TREE, CONFIG, TAIL, Batching(2048))
        assert all(step.num_entries <= BUDGET for step in steps)
        found[name] = np.array([step.nll for step in steps])
    np.testing.assert_allclose(found["recency"], found["truncation"], atol=1e-5)
    assert found["hindsight"].mean() < found["truncation"].mean() - 0.05


def test_attention_over_the_window_ranks_blocks_alike_whether_they_are_shown_or_absent(model, document):
    """The pass that looks sees all tokens, so what a block draws does not depend on the context."""
    ranks = []
    for shown in (view_at(model, document).lod_map, LODMap.of_tokens(TREE, 40, 200)):
        candidates = window_attention_scores(replace(view_at(model, document), lod_map=shown, budget=160))
        by_block = dict(zip(candidates.actions.index_A.tolist(), candidates.score_A.tolist(), strict=True))
        old = [by_block[block] for block in range(12, 36) if block in by_block]
        assert len(old) == 24
        ranks.append(np.argsort(old).tolist())
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("relevance", [bm25, rare_words])
def test_retrieval_shows_the_best_block_and_the_newest_text_besides(model, document, relevance):
    shown = RetrievalWindow(TokenMatch(relevance, 4), 1).refocus(view_at(model, document)).lod_map
    assert shown.num_entries == BUDGET
    blocks = shown.first_block + np.flatnonzero(shown.levels != ABSENT)
    assert blocks.tolist() == [20, *range(39, 50)]


def test_influence_ranks_absent_blocks_as_exact_insertions_do(model, document):
    view, newest = view_at(model, document), 200 - BUDGET + 8
    window = truncation_map(TREE, 40, 200, newest)
    found_M = Influence(num_query_blocks=2)(view, window)
    before = truncation_map(TREE, 40, 192, newest)
    loss = view.reader.read(before, 8).nll_H.mean()
    exact_M = np.array(
        [
            float(loss - view.reader.read(before.with_level(slice(i, i + 1), 0), 8).nll_H.mean())
            for i in range(len(found_M))
        ]
    )
    assert len(found_M) == (newest - 40) // 4
    assert np.corrcoef(found_M, exact_M)[0, 1] > 0.8
    shown = RetrievalWindow(Influence(2), 2).refocus(view).lod_map
    assert shown.num_entries == BUDGET
    assert set(np.argsort(-found_M)[:2]) <= set(np.flatnonzero(shown.levels != ABSENT))


def test_what_matches_nothing_is_not_retrieved(model, document):
    policy = RetrievalWindow(TokenMatch(lambda blocks_MK, query_Q: np.zeros(len(blocks_MK))), 3)
    assert policy.refocus(view_at(model, document)).lod_map == truncation_map(TREE, 40, 200, 200 - BUDGET)


def test_bm25_by_hand():
    blocks_MK, query_Q = np.array([[1, 1, 2, 3], [4, 5, 6, 7], [1, 8, 9, 9]]), np.array([1, 3, 1])
    idf_1, idf_3 = np.log(1 + 1.5 / 2.5), np.log(1 + 2.5 / 1.5)
    expected = [idf_1 * 2 * 2.2 / 3.2 + idf_3, 0.0, idf_1]
    np.testing.assert_allclose(bm25(blocks_MK, query_Q), expected)
    assert len(bm25(blocks_MK[:0], query_Q)) == len(rare_words(blocks_MK[:0], query_Q)) == 0


def test_a_tree_without_absence_makes_no_such_candidates(model, document):
    view = view_at(model, document)
    off = replace(view, lod_map=replace(view.lod_map, tree=replace(TREE, absence="off")))
    assert len(off.candidates()) < len(view.candidates())
