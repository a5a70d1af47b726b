"""Masked pass: who sees whom, changes at single entries alone, and models that have no such pass."""

import pytest
import torch

from mctrace.base_model.masked_pass import (
    EntryChanges,
    LowRankChange,
    check_whole_attention,
    linear_layers,
    masked_logits,
)
from mctrace.errors import ModelError
from tests.models import VOCABULARY, tiny_model

TOKENS_T = torch.arange(3, 27) % VOCABULARY
CAUSAL_TT = torch.ones(24, 24, dtype=torch.bool).tril()


def random_changes(model, entry_A, seed=0):
    chance = torch.Generator().manual_seed(seed)
    by_layer = {
        name: LowRankChange(
            torch.randn(2, width_in, generator=chance), torch.randn(width_out, 2, generator=chance)
        )
        for name, (width_in, width_out) in linear_layers(model.network).items()
    }
    return EntryChanges(torch.tensor(entry_A), by_layer)


def logits(model, visible_TT, changes=None):
    position_T = torch.arange(len(TOKENS_T))
    embeddings_Td = model.embed(TOKENS_T).clone()
    return masked_logits(model.network, embeddings_Td, position_T, visible_TT, position_T, changes)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt_neox", "granite", "cohere"])
def test_a_causal_mask_is_the_plain_pass(architecture):
    model = tiny_model(architecture)
    position_T = torch.arange(len(TOKENS_T))
    expected = model.logits(model.embed(TOKENS_T), position_T, position_T)
    torch.testing.assert_close(logits(model, CAUSAL_TT), expected, atol=1e-4, rtol=1e-4)


def test_what_is_hidden_from_everyone_might_as_well_not_be_there():
    model = tiny_model()
    hidden = torch.tensor([5, 6, 7])
    visible_TT = CAUSAL_TT.clone()
    visible_TT[:, hidden] = False
    visible_TT[hidden, hidden] = True
    kept = torch.tensor([i for i in range(24) if i not in hidden.tolist()])
    expected = model.logits(model.embed(TOKENS_T)[kept], kept, torch.arange(len(kept)))
    torch.testing.assert_close(logits(model, visible_TT)[kept], expected, atol=1e-4, rtol=1e-4)


def test_changes_act_at_their_entries_and_at_what_sees_them():
    model = tiny_model()
    visible_TT = CAUSAL_TT.clone()
    visible_TT[16:, 8] = False  # nobody from 16 on sees entry 8, nor 9 to 15, which saw it
    visible_TT[16:, 9:16] = False
    plain = logits(model, visible_TT)
    changed = logits(model, visible_TT, random_changes(model, [8]))
    torch.testing.assert_close(changed[:8], plain[:8])
    torch.testing.assert_close(changed[16:], plain[16:])
    assert (changed[8:16] - plain[8:16]).abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(logits(model, visible_TT), plain)  # the model itself is as it was


def test_changes_of_no_entry_change_nothing():
    model = tiny_model()
    no_entry = EntryChanges(torch.tensor([], dtype=torch.long), random_changes(model, [0]).by_layer)
    torch.testing.assert_close(logits(model, CAUSAL_TT, no_entry), logits(model, CAUSAL_TT))


def test_models_with_local_attention_or_without_linear_layers_are_refused():
    for architecture in ("mistral", "gemma2", "gemma3"):
        with pytest.raises(ModelError, match="local attention"):
            check_whole_attention(tiny_model(architecture).network.config)
    for architecture in ("llama", "qwen2", "qwen3", "gpt_neox", "gpt2"):
        check_whole_attention(tiny_model(architecture).network.config)
    with pytest.raises(ModelError, match="no linear layers"):
        linear_layers(tiny_model("gpt2").network)
