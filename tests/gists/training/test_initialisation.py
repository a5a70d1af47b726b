"""Initialisation: copied layers compute the same as the base model's; other architectures are refused."""

import pytest
import torch

from mctrace.errors import ModelError
from mctrace.gists.config import GistNetSizes
from mctrace.gists.training.initialisation import base_layers, fresh_gistnet
from tests.models import WIDTH, tiny_model


def test_copied_layers_give_the_base_models_own_hidden_states():
    model = tiny_model("llama")
    gistnet = fresh_gistnet(
        GistNetSizes(num_layers=2, copy_layers=True),
        block_size=16,
        embedding_dim=WIDTH,
        embedding_scale=1.0,
        base_layers=base_layers(model, 2),
        seed=0,
    )
    # Large enough that the different eps of the two norms do not matter.
    embeddings_MKd = 20 * model.embed(torch.arange(48)).clone().view(3, 16, WIDTH)
    with torch.no_grad():
        expected = model.network(inputs_embeds=embeddings_MKd, output_hidden_states=True, use_cache=False)
        hidden_MKw, mask_KK = embeddings_MKd, torch.ones(16, 16, dtype=torch.bool).tril()
        for number, layer in enumerate(gistnet.poolers[0].layers, start=1):
            hidden_MKw = layer(hidden_MKw, mask_KK)
            if number == 1:  # transformers gives the last one only behind the final norm
                torch.testing.assert_close(hidden_MKw, expected.hidden_states[1], atol=1e-4, rtol=1e-4)
        final_MKw = model.network.model.norm(hidden_MKw)
    torch.testing.assert_close(final_MKw, expected.hidden_states[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_layers_of_another_architecture_are_refused_with_the_remedy(architecture):
    with pytest.raises(ModelError, match="copy_layers = false"):
        base_layers(tiny_model(architecture), 2)


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(ModelError, match="that many layers of the Llama family"):
        base_layers(tiny_model("llama"), 3)
