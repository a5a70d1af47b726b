"""Training: the surrogate's gradient is the loss's, the objective falls, and a run can be gone on from."""

from itertools import islice, repeat

import pytest
import torch

from mctrace.errors import ConfigError, ModelError
from mctrace.gists.config import (
    GistEvaluationConfig,
    GistNetSizes,
    GistObjectiveConfig,
    GistOptimiserConfig,
    GistTrainConfig,
)
from mctrace.gists.network.gistnet import MeanGistNet, differentiable_tree
from mctrace.gists.training.initialisation import earlier_gistnet, fresh_gistnet
from mctrace.gists.training.substitutability import (
    predicted_after_first_gist,
    student_logits,
    substitution_loss,
    teacher_logits,
)
from mctrace.gists.training.training_loss import gist_loss, validation_loss
from mctrace.gists.training.windows import training_windows, validation_windows
from mctrace.train.loop.optimisation_steps import gradients_of, optimisation_steps
from tests.gists.tiny_models import TREE, document, tiny_config, tiny_gistnet
from tests.models import tiny_model

DOCUMENTS = [document(300, seed) for seed in range(4)]


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_the_surrogate_s_gradient_equals_that_of_the_whole_loss(weight):
    model, config = tiny_model(), tiny_config(neighbour_weight=weight, coarse_share=0.5)
    gistnet = tiny_gistnet(is_trained=True)
    windows = [w for step in islice(training_windows(DOCUMENTS, TREE, config, first_step=9), 2) for w in step]
    surrogate, values = gist_loss(gistnet, model, TREE, config.objective)(windows)
    surrogate.backward()
    found = {name: parameter.grad.clone() for name, parameter in gistnet.named_parameters()}
    gistnet.zero_grad()
    whole = direct_loss(gistnet, model, windows, config.objective)
    whole.backward()
    assert values["loss"] == pytest.approx(whole.item(), rel=1e-4)
    for name, parameter in gistnet.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-3)


def direct_loss(gistnet, model, windows, objective) -> torch.Tensor:
    """The objective as defined, in one graph."""
    losses, apart = [], []
    for window in windows:
        embeddings = differentiable_tree(gistnet, model.embed(window.tokens_T).clone(), TREE)
        teacher_TV = teacher_logits(model, embeddings[0])
        for lod_map in window.lod_maps:
            reads = predicted_after_first_gist(lod_map, window.first_scored)
            logits_SV = student_logits(model, embeddings, lod_map, reads)
            kl_S = substitution_loss(logits_SV, teacher_TV[reads.token_S - 1], reads.token_S, "kl")
            losses.append(kl_S.mean())
        gists_Md = embeddings[1]
        cosine = torch.nn.functional.cosine_similarity(gists_Md[1:], gists_Md[:-1], dim=-1)
        apart.append((objective.neighbour_margin - (1 - cosine)).clamp(min=0).mean())
    return torch.stack(losses).mean() + objective.neighbour_weight * torch.stack(apart).mean()


@pytest.mark.parametrize(("match", "share_left"), [("kl", 0.9), ("nll", 0.98)])
def test_training_lowers_the_objective_below_the_means(match, share_left):
    model, config = tiny_model(), tiny_config(15, match=match)
    gistnet = tiny_gistnet()
    fixed = validation_windows(DOCUMENTS, TREE, config)[:3]
    before = validation_loss(gistnet, model, TREE, config.objective, fixed)
    as_mean = validation_loss(MeanGistNet(), model, TREE, config.objective, fixed)
    assert before["loss"] == pytest.approx(as_mean["loss"], rel=1e-4)
    loss_fn = gist_loss(gistnet, model, TREE, config.objective)
    for _ in optimisation_steps(gistnet, repeat(fixed), gradients_of(loss_fn), config.optimiser):
        pass
    after = validation_loss(gistnet, model, TREE, config.objective, fixed)
    assert after["loss"] < share_left * before["loss"]
    assert all(not parameter.requires_grad for parameter in model.network.parameters())


def test_a_run_continues_from_an_earlier_gistnet(tmp_path):
    tiny_gistnet(is_trained=True).save_pretrained(tmp_path, torch.float16)
    network = earlier_gistnet(tmp_path, block_size=4, embedding_dim=32)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ModelError, match="blocks of 4 and width 32"):
        earlier_gistnet(tmp_path, block_size=8, embedding_dim=32)
    with pytest.raises(ModelError, match="MeanGistNet has no weights"):
        earlier_gistnet("mean", block_size=4, embedding_dim=32)


def test_an_untrained_network_has_the_configured_sizes():
    sizes = GistNetSizes(pooling="query", num_layers=3, copy_layers=False, width=16, num_heads=2)
    made = fresh_gistnet(sizes, block_size=8, embedding_dim=32, embedding_scale=0.5, base_layers=None, seed=1)
    assert (made.config.pooling, made.config.num_layers, made.config.width) == ("query", 3, 16)
    assert float(made.input_scale) == 0.5


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: GistNetSizes(pooling="max"), "gist_train.network.pooling"),
        (lambda: GistNetSizes(num_layers=0), "gist_train.network.num_layers"),
        (lambda: GistObjectiveConfig(match="mse"), "gist_train.objective.match"),
        (lambda: GistObjectiveConfig(coarse_share=2), "gist_train.objective.coarse_share"),
        (lambda: GistObjectiveConfig(min_replaced=1.0, max_replaced=0.5), "gist_train.objective.min_repl"),
        (lambda: GistTrainConfig(windows_per_step=0), "gist_train.windows_per_step"),
        (lambda: GistOptimiserConfig(learning_rate=0), "gist_train.optimiser.learning_rate"),
        (lambda: GistEvaluationConfig(horizons=()), "gist_evaluate.horizons"),
        (lambda: GistEvaluationConfig(shares=(1.5,)), "gist_evaluate.shares"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(make, key):
    with pytest.raises(ConfigError, match=key):
        make()
