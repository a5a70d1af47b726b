"""Labels of contexts that stay as they were read, against one masked pass by definition."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mctrace.base_model.masked_pass import masked_logits
from mctrace.collect.measuring.kept_labels import kept_delta_nll, kept_nll, read_in_full
from mctrace.gists.network.anchored_spans import Span, kept_tokens
from tests.models import VOCABULARY, tiny_model

CURSOR, HORIZON = 40, 12
TOKENS_T = torch.randint(VOCABULARY, (CURSOR + HORIZON,), generator=torch.Generator().manual_seed(0))
SPANS = (Span(0, 8, (7,)), Span(16, 24), Span(24, 32, (26, 31)))


def by_definition(model, spans):
    """Every token in one pass: those before the cursor see all before them, the others the anchors alone."""
    visible_TT = torch.ones(len(TOKENS_T), len(TOKENS_T), dtype=torch.bool).tril()
    hidden = sorted(set(range(CURSOR)) - set(kept_tokens(spans, CURSOR).tolist()))
    visible_TT[CURSOR:, hidden] = False
    position_T = torch.arange(len(TOKENS_T))
    keep_H = position_T[CURSOR:-1]
    logits_HV = masked_logits(model.network, model.embed(TOKENS_T).clone(), position_T, visible_TT, keep_H)
    return cross_entropy(logits_HV, TOKENS_T[CURSOR + 1 :], reduction="none")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox", "gpt2"])
def test_losses_equal_one_masked_pass(architecture):
    model = tiny_model(architecture)
    read = read_in_full(model, TOKENS_T, CURSOR)
    for spans in ((), SPANS, SPANS[1:]):
        torch.testing.assert_close(
            kept_nll(read, spans, HORIZON), by_definition(model, spans), atol=1e-4, rtol=1e-4
        )


def test_an_edit_and_its_opposite_cancel_and_nothing_that_was_read_changes():
    read = read_in_full(tiny_model(), TOKENS_T, CURSOR)
    kept = {layer: keys.clone() for layer, (keys, _) in read.cache.layers.items()}
    collapse = kept_delta_nll(read, (), SPANS, HORIZON)
    assert collapse.shape == (HORIZON - 1,)
    assert collapse.abs().max() > 1e-3
    torch.testing.assert_close(kept_delta_nll(read, SPANS, (), HORIZON), -collapse)
    assert all(torch.equal(keys, kept[layer]) for layer, (keys, _) in read.cache.layers.items())


def test_in_full_nothing_differs_from_the_plain_pass():
    model = tiny_model()
    read = read_in_full(model, TOKENS_T, CURSOR)
    position_T = torch.arange(len(TOKENS_T))
    logits_HV = model.logits(model.embed(TOKENS_T), position_T, position_T[CURSOR:-1])
    expected = cross_entropy(logits_HV, TOKENS_T[CURSOR + 1 :], reduction="none")
    torch.testing.assert_close(kept_nll(read, (), HORIZON), expected, atol=1e-4, rtol=1e-4)
