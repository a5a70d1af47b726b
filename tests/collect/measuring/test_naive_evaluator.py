"""The slow definition, held against transformers' own forward pass over token ids."""

import numpy as np
import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll, naive_nll
from mctrace.context.actions import Action
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.collect.making import TREE
from tests.models import VOCABULARY, tiny_model

HORIZON = 10


def test_with_every_block_as_tokens_it_is_the_models_own_loss():
    model = tiny_model()
    tokens_T = torch.randint(0, VOCABULARY, (80,), generator=torch.Generator().manual_seed(2))
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    with torch.inference_mode():
        logits_TV = model.network(input_ids=tokens_T[None, 8 : 50 + HORIZON]).logits[0]
        log_probabilities_TV = logits_TV.float().log_softmax(-1)
    expected_H = [-float(log_probabilities_TV[t - 8 - 1, tokens_T[t]]) for t in range(50, 50 + HORIZON)]
    found_H = naive_nll(model, document, LODMap.of_tokens(TREE, 8, 50), HORIZON)
    np.testing.assert_allclose(found_H.numpy(), expected_H, atol=1e-4)


def test_a_collapse_is_a_gist_at_the_centre_of_the_tokens_it_replaces():
    model = tiny_model()
    tokens_T = torch.randint(0, VOCABULARY, (80,), generator=torch.Generator().manual_seed(3))
    embeddings_Td = model.embed(tokens_T)
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), embeddings_Td, TREE))
    cut = LODMap.of_tokens(TREE, 0, 40)
    gist_1d = embeddings_Td[20:24].mean(dim=0, keepdim=True)
    embeddings_Nd = torch.cat([embeddings_Td[:20], gist_1d, embeddings_Td[24 : 40 + HORIZON]])
    position_N = torch.tensor([*range(20), 22, *range(24, 40 + HORIZON)])
    num_entries = len(position_N)
    mask = torch.ones(num_entries, num_entries, dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        logits_NV = model.network(
            inputs_embeds=embeddings_Nd[None],
            position_ids=position_N[None],
            attention_mask=mask,
            use_cache=False,
        ).logits[0]
    log_probabilities_NV = logits_NV.float().log_softmax(-1)
    after_H = [-float(log_probabilities_NV[t - 3 - 1, tokens_T[t]]) for t in range(40, 40 + HORIZON)]
    before_H = naive_nll(model, document, cut, HORIZON).numpy()
    delta_H = naive_delta_nll(model, document, cut, Action("collapse", Node(1, 5)), HORIZON).numpy()
    assert np.abs(delta_H).max() > 0.01
    np.testing.assert_allclose(delta_H, np.array(after_H) - before_H, atol=1e-4)
