"""Anchors: which positions stay, who sees them, and the first token that always stays."""

import numpy as np
import torch

from mctrace.gists.network.anchored_spans import (
    InformativeRun,
    LastAndSurprising,
    Span,
    anchor_places,
    collapsed_spans,
    kept_tokens,
    surprisal,
    visible_tokens,
)
from mctrace.gists.training.collapsed_maps import with_gists
from tests.gists.tiny_models import TREE
from tests.models import tiny_model

SURPRISAL_T = np.array([0, 1, 9, 1, 1, 8, 7, 1, 5, 5, 5, 5], dtype=np.float32)


def test_a_run_is_the_most_surprising_stretch_and_the_last_of_equals():
    assert InformativeRun(2)(SURPRISAL_T, 0, 8) == (5, 6)
    assert InformativeRun(1)(SURPRISAL_T, 0, 8) == (2,)
    assert InformativeRun(2)(SURPRISAL_T, 8, 12) == (10, 11)
    assert InformativeRun(9)(SURPRISAL_T, 8, 12) == (8, 9, 10, 11)


def test_the_last_token_comes_first_then_the_most_surprising():
    assert LastAndSurprising(1)(SURPRISAL_T, 0, 8) == (7,)
    assert LastAndSurprising(3)(SURPRISAL_T, 0, 8) == (2, 5, 7)
    assert LastAndSurprising(9)(SURPRISAL_T, 8, 12) == (8, 9, 10, 11)


def test_spans_are_the_nodes_of_a_map_whatever_their_level():
    lod_map = with_gists(TREE, 36, 2, np.array([1])).with_level(slice(1, 2), 1)
    spans = collapsed_spans(lod_map, np.arange(36, dtype=np.float32), LastAndSurprising(2))
    assert spans == (Span(4, 8, (6, 7)), Span(16, 32, (30, 31)))
    assert collapsed_spans(lod_map, SURPRISAL_T, None) == (Span(4, 8), Span(16, 32))


def test_block_tokens_see_their_block_and_later_ones_its_anchors_and_the_first_token():
    spans = (Span(0, 4, (3,)), Span(8, 12, (9, 11)))
    seen = visible_tokens(spans, 14, torch.device("cpu"))
    rows = {row: torch.nonzero(seen[row])[:, 0].tolist() for row in (2, 3, 5, 10, 13)}
    assert rows[2] == [0, 1, 2]
    assert rows[3] == [0, 1, 2, 3]
    assert rows[5] == [0, 3, 4, 5]
    assert rows[10] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert rows[13] == [0, 3, 4, 5, 6, 7, 9, 11, 12, 13]
    assert kept_tokens(spans, 14).tolist() == [0, 3, 4, 5, 6, 7, 9, 11, 12, 13]
    assert anchor_places(spans).tolist() == [3, 9, 11]


def test_surprisal_is_the_loss_of_each_token_given_all_before_it():
    model, tokens_T = tiny_model(), torch.arange(5, 17)
    logits_TV = model.logits(model.embed(tokens_T), torch.arange(12), torch.arange(12))
    found = surprisal(logits_TV, tokens_T)
    assert found[0] == 0
    expected = -logits_TV.log_softmax(-1)[6, tokens_T[7]]
    np.testing.assert_allclose(found[7], float(expected), rtol=1e-5)
