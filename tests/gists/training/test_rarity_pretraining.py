"""Pretraining of the picks: rarity is defined correctly, and the picks learn it."""

import numpy as np
import torch

from mctrace.gists.config import RarityConfig
from mctrace.gists.training.rarity_pretraining import document_frequency, pretrain_picks, rarest
from tests.gists.tiny_models import document, tiny_gistnet
from tests.models import tiny_model

DOCUMENTS = [np.array([0, 1, 1, 2]), np.array([0, 1, 3, 0]), np.array([0, 4, 4, 4])]


def test_frequency_counts_documents_not_tokens():
    assert document_frequency(DOCUMENTS).tolist() == [3, 2, 1, 1, 1]


def test_the_rarest_come_first_the_earlier_of_equals_and_none_twice():
    frequency_V = document_frequency(DOCUMENTS)
    blocks_MK = torch.tensor([[0, 1, 2, 3], [4, 4, 1, 0], [1, 0, 9, 0]])
    assert rarest(blocks_MK, frequency_V, 3).tolist() == [[2, 3, 1], [0, 2, 3], [2, 0, 1]]


def test_picks_learn_to_find_the_rarest_token():
    torch.manual_seed(0)
    model, gistnet = tiny_model(), tiny_gistnet()
    documents = [document(200, seed) for seed in range(3)]
    config = RarityConfig(num_steps=40, blocks_per_step=32, learning_rate=1e-2, gain=0.6)
    losses = [step.values["loss"] for step in pretrain_picks(gistnet, model, documents, config, seed=0)]
    assert losses[-1] < 0.7 * losses[0]
    blocks_MK = torch.from_numpy(documents[0].reshape(-1, 4).astype(np.int64))
    (logits_MKp,) = gistnet.pick_logits(model.embed(blocks_MK.flatten()).clone().unflatten(0, (-1, 4)))
    right = logits_MKp[..., 0].argmax(dim=1) == rarest(blocks_MK, document_frequency(documents), 1)[:, 0]
    assert right.float().mean() > 0.6
    assert gistnet.poolers[0].gain.detach().mean() > 0.4
    assert all(parameter.grad is None for parameter in model.network.parameters())
