"""Substitution loss against its slow definition, and the path of its gradient."""

import numpy as np
import pytest
import torch

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.gists.network.gistnet import differentiable_tree
from mctrace.gists.training.collapsed_maps import with_gists
from mctrace.gists.training.substitutability import (
    neighbour_loss,
    predicted_after_first_gist,
    predicted_from,
    student_logits,
    substitution_loss,
    teacher_logits,
)
from tests.gists.tiny_models import TREE, document, tiny_gistnet
from tests.models import tiny_model


def logits(seed: int, num_rows: int = 70) -> torch.Tensor:
    return torch.randn(num_rows, 97, generator=torch.Generator().manual_seed(seed)) * 3


def test_kl_and_its_gradient_equal_the_composed_ones():
    student, teacher = logits(0).requires_grad_(), logits(1)
    slow = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    weight_S = torch.linspace(0, 1, 70)
    (expected,) = torch.autograd.grad((slow * weight_S).sum(), student)
    found = substitution_loss(student, teacher, torch.zeros(70, dtype=torch.long), "kl")
    torch.testing.assert_close(found, slow)
    (gradient,) = torch.autograd.grad((found * weight_S).sum(), student)
    torch.testing.assert_close(gradient, expected)


def test_nll_is_the_cross_entropy_of_the_tokens():
    student, targets_S = logits(0), torch.arange(70)
    found = substitution_loss(student, logits(1), targets_S, "nll")
    torch.testing.assert_close(found, -student.log_softmax(-1)[torch.arange(70), targets_S])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_a_map_without_gists_changes_no_prediction(architecture):
    model = tiny_model(architecture)
    tokens_T = torch.from_numpy(document(40).astype(np.int64))
    embeddings = differentiable_tree(tiny_gistnet(), model.embed(tokens_T).clone(), TREE)
    lod_map = LODMap.of_tokens(TREE, 0, 40)
    reads = predicted_from(lod_map, 1)
    kl_S = substitution_loss(
        student_logits(model, embeddings, lod_map, reads),
        teacher_logits(model, embeddings[0])[reads.token_S - 1],
        tokens_T[reads.token_S],
        "kl",
    )
    assert len(kl_S) == 39
    assert kl_S.abs().max() < 1e-5


def test_a_prediction_is_read_at_the_entry_before_its_token():
    lod_map = with_gists(TREE, 24, 1, np.array([1, 3]))
    reads = predicted_after_first_gist(lod_map)
    entries = lod_map.entries
    assert reads.token_S.tolist() == [8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23]
    assert entries.first_token_N[reads.entry_S.numpy() + 1].tolist() == reads.token_S.tolist()
    # Tokens 8 and 16 are predicted by the gists before them.
    assert entries.level_N[reads.entry_S.numpy()].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert predicted_after_first_gist(lod_map, 20).token_S.tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize("block_size", [8, 32, 128])
@pytest.mark.parametrize("level", [1, 2])
def test_gradients_reach_the_gistnet_at_every_level_and_block_size_and_nothing_else(level, block_size):
    tree = TreeShape(block_size, 2)
    if tree.span_width(level) > 256:
        pytest.skip("longer than the tiny model's positions")
    model, gistnet = tiny_model(), tiny_gistnet(block_size)
    num_tokens = tree.span_width(level) + block_size
    tokens_T = torch.from_numpy(document(num_tokens).astype(np.int64))
    embeddings = differentiable_tree(gistnet, model.embed(tokens_T).clone(), tree)
    lod_map = with_gists(tree, num_tokens, level, np.array([0]))
    reads = predicted_after_first_gist(lod_map)
    teacher_SV = teacher_logits(model, embeddings[0])[reads.token_S - 1]
    student_SV = student_logits(model, embeddings, lod_map, reads)
    substitution_loss(student_SV, teacher_SV, tokens_T[reads.token_S], "kl").mean().backward()
    gradient = gistnet.poolers[0].project_out.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_neighbours_apart_by_the_margin_cost_nothing():
    apart = torch.eye(3)
    assert neighbour_loss(apart, 0.2) == 0
    alike = torch.ones(3, 4)
    torch.testing.assert_close(neighbour_loss(alike, 0.2), torch.tensor(0.2))
    assert neighbour_loss(torch.ones(1, 4), 0.2) == 0
