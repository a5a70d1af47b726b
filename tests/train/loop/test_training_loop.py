"""Optimisation steps, the training loop around them, and a LensNet's training."""

import math
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from mctrace.errors import InputError
from mctrace.train.config import OptimiserConfig, TrainConfig
from mctrace.train.device import uses_bfloat16
from mctrace.train.evaluation.split_evaluation import evaluate_network
from mctrace.train.loop.lensnet_training import LensNetTraining
from mctrace.train.loop.optimisation_steps import (
    DivergenceError,
    gradients_of,
    learning_rate,
    optimisation_steps,
)
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig, PreferenceConfig
from mctrace.train.objectives.lensnet_gradients import Examples
from tests.train.pairs import random_pairs

EMBEDDING_DIM = 12
TINY = NetworkConfig(d_lens=32, num_heads=4, num_stacks=1, dropout=0.0)


def config_for(total_steps=12, learning_rate=3e-3, **changes):
    optimiser = OptimiserConfig(
        learning_rate=learning_rate, warmup_steps=min(5, total_steps), total_steps=total_steps
    )
    defaults = {"eval_interval": 5, "save_interval": 4, "log_interval": 5, "network": TINY, "device": "cpu"}
    return TrainConfig(optimiser=optimiser, **{**defaults, **changes})


class Recorder:
    def __init__(self):
        self.lines, self.saved = [], []

    def write(self, step, split, values):
        self.lines.append((step, split, dict(values)))

    def save(self, name, step, metrics):
        self.saved.append((name, step, dict(metrics)))


def examples_for(batch, config):
    pairs = random_pairs(batch) if config.objective.learns_pairs else None
    return Examples(labels=batch if config.objective.learns_labels else None, pairs=pairs)


def train(batch, config, *, losses=None, batches=None, **passed):
    """Train a new network on one batch, validated on the same batch or by the given losses."""
    network = build_network(config.network, EMBEDDING_DIM, seed=config.seed)
    recorder = Recorder()
    examples = examples_for(batch, config)

    def validate(network):
        if losses is not None:
            return {"loss": next(losses)}
        return evaluate_network(network, [examples], config.objective).scalars()

    result = LensNetTraining.of(network, config).run(
        repeat([examples]) if batches is None else batches,
        evaluate=validate, save=recorder.save, sinks=[recorder], **passed,
    )  # fmt: skip
    return network, result, recorder


def test_a_tiny_network_overfits_one_batch(make_batch):
    batch = make_batch(0, num_snapshots=4, one_action_per_entry=True)
    _, result, _ = train(batch, config_for(250, eval_interval=250, save_interval=250))
    assert result.last["ranking_accuracy"] > 0.95
    assert result.last["utility_correlation"] > 0.95


def test_every_network_learns(make_batch):
    batch = make_batch(1, num_snapshots=4)
    transformer = NetworkConfig(name="transformer", d_lens=32, num_heads=4, dropout=0.0)
    for network in (TINY, transformer, NetworkConfig(name="linear")):
        _, _, recorder = train(batch, config_for(60, network=network, log_interval=10))
        losses = [values["loss"] for _, split, values in recorder.lines if split == "train"]
        assert losses[-1] < 0.9 * losses[0]


def test_a_run_repeats_itself(make_batch):
    config = config_for(8, network=replace(TINY, dropout=0.2))
    first, second = (train(make_batch(2), config)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_are_learned_with_a_price_as_they_are_without(make_batch):
    batch = replace(make_batch(5, num_snapshots=4, one_action_per_entry=True), signed=False)
    examples, config = (
        [Examples(labels=batch)],
        config_for(40, network=replace(TINY, dropout=0.2), eval_interval=4),
    )
    config = replace(config, optimiser=replace(config.optimiser, gradient_clip=0.1))  # every step is clipped
    weights, best = [], []
    for has_price in (False, True):
        network = build_network(TINY, EMBEDDING_DIM, price=has_price)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        result = LensNetTraining.of(network, config).run(
            repeat(examples),
            evaluate=lambda network: evaluate_network(network, examples, config.objective).scalars(),
            save=Recorder().save,
        )
        weights.append(network.state_dict())
        best.append(result.best_step)
    without, priced = weights
    for name, value in without.items():
        torch.testing.assert_close(priced[name], value, atol=1e-4, rtol=1e-4, msg=name)
    assert best[0] == best[1]
    assert any(not torch.equal(priced[name], before[name]) for name in priced if name not in without)


def test_the_best_of_values_with_a_price_is_that_of_the_values(make_batch):
    losses = iter([(0.5, 9.0), (0.3, 9.5), (0.4, 0.1)])
    batch = replace(make_batch(3), signed=False)
    network, config, recorder = build_network(TINY, EMBEDDING_DIM, price=True), config_for(12), Recorder()

    def validate(_):
        of_values, of_price = next(losses)
        return {"loss": of_values + of_price, "L_reg": of_values, "L_rank": 0.0, "L_budget": of_price}

    result = LensNetTraining.of(network, config).run(
        repeat([Examples(labels=batch)]), evaluate=validate, save=recorder.save
    )
    assert (result.best_step, result.best["L_reg"]) == (10, 0.3)


def test_intervals_best_and_last(make_batch):
    losses = iter([0.5, 0.3, 0.4])
    _, result, recorder = train(make_batch(3), config_for(12), losses=losses)
    assert [(step, split) for step, split, _ in recorder.lines] == [
        (5, "train"),
        (5, "validation"),
        (10, "train"),
        (10, "validation"),
        (12, "train"),
        (12, "validation"),
    ]
    assert recorder.saved == [
        ("step_0000004", 4, {}),
        ("best", 5, {"loss": 0.5}),
        ("step_0000008", 8, {}),
        ("best", 10, {"loss": 0.3}),
        ("step_0000012", 12, {"loss": 0.4}),
    ]
    assert (result.num_steps, result.best_step, result.best, result.last) == (
        12,
        10,
        {"loss": 0.3},
        {"loss": 0.4},
    )
    terms = {"loss", "L_reg", "L_rank", "L_budget", "L_illegal"}
    debugging = {
        "score_mean", "score_std", "score_min", "score_max", "score_histogram",
        "expansion_mass", "collapse_mass", "legality_compliance", "mse_level_0", "mse_level_1",
        "utility_correlation_mean", "utility_correlation_min", "utility_correlation_max",
        "score_delta_nll_expand_mean", "score_delta_nll_collapse_mean",
        "grad_norm", "grad_norm_max", "lr", "steps_per_s", "read_share",
    }  # fmt: skip
    assert terms | debugging <= recorder.lines[0][2].keys()


def test_learning_rate_warms_up_then_follows_a_cosine():
    config = OptimiserConfig(learning_rate=2.0, warmup_steps=4, total_steps=12)
    rates = [learning_rate(config, step) for step in range(1, 13)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert learning_rate(OptimiserConfig(warmup_steps=3, total_steps=3), 3) == 1e-4


def test_gradients_are_clipped():
    module = torch.nn.Linear(1, 1, bias=False)
    before = module.weight.detach().clone()
    config = OptimiserConfig(learning_rate=0.1, eps=1.0, weight_decay=0, warmup_steps=0, total_steps=1)

    def loss_fn(x):
        loss = (1e6 * module(x)).sum()
        return loss, {"loss": loss.item()}

    (step,) = optimisation_steps(module, repeat(torch.ones(1, 1)), gradients_of(loss_fn), config)
    assert step.grad_norm == pytest.approx(1e6)
    # With a clipped gradient g = 1 and eps = 1, Adam's first step is lr·g/(g + eps), half the learning rate.
    torch.testing.assert_close(before - module.weight.detach(), torch.full((1, 1), 0.05))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_stops_before_the_weights_are_touched_and_hands_over_the_batch(make_batch, bad):
    batch = make_batch(4)
    poisoned = Examples(replace(batch, target_utilities=torch.full_like(batch.target_utilities, bad)))
    batches = iter([[Examples(batch)], [Examples(batch)], [poisoned]])
    network = build_network(TINY, EMBEDDING_DIM)
    training = LensNetTraining.of(network, config_for(6))
    with pytest.raises(DivergenceError, match="diverged at step 3: loss") as caught:
        training.run(batches, evaluate=lambda _: {"loss": 0.0}, save=Recorder().save)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert caught.value.batch == [poisoned]


def test_a_validation_loss_that_is_not_finite_stops_too(make_batch):
    with pytest.raises(DivergenceError, match="validation loss at step 5"):
        train(make_batch(4), config_for(6), losses=iter([math.nan]))


def test_batches_that_end_early_are_an_error(make_batch):
    with pytest.raises(InputError, match="ended before step 2 of 6"):
        train(make_batch(0), config_for(6), batches=iter([[Examples(make_batch(0))]]))


@pytest.mark.parametrize("objective", ["preference", "mixed"])
@pytest.mark.parametrize("network", ["dual_cross_attention", "transformer", "linear"])
def test_every_network_learns_every_objective(make_batch, objective, network):
    batch = make_batch(1, num_snapshots=4)
    preference = PreferenceConfig(kl_weight=0.1, budget_smooth_weight=0.1)
    config = config_for(
        60,
        learning_rate=1e-2,
        network=replace(TINY, name=network),
        objective=ObjectiveConfig(objective, preference=preference),
        log_interval=10,
    )
    _, result, recorder = train(batch, config)
    lines = [values for _, split, values in recorder.lines if split == "train"]
    assert lines[-1]["L_pref"] < 0.95 * lines[0]["L_pref"]
    assert {"L_kl", "L_budget_smooth", "adv_delta_mean", "adv_delta_p95", "variants_total"} <= lines[0].keys()
    assert result.last["preference_agreement"] > 0.6


def test_early_stopping_ends_after_enough_evaluations_without_a_better_one(make_batch):
    losses = iter([0.5, 0.3, 0.4, 0.31, 0.2])
    config = config_for(40, patience=2)
    _, result, recorder = train(make_batch(3), config, losses=losses)
    assert (result.ending, result.num_steps, result.best_step) == ("early", 20, 10)
    assert recorder.saved[-1][:2] == ("step_0000020", 20)


def test_a_request_to_stop_saves_after_the_current_step(make_batch):
    requests = iter([False, False, True])
    _, result, recorder = train(make_batch(3), config_for(12), should_stop=lambda: next(requests))
    assert (result.ending, result.num_steps) == ("stopped", 3)
    assert recorder.saved == [("step_0000003", 3, {})]


@pytest.mark.parametrize("objective", ["counterfactual", "preference", "mixed"])
def test_a_batch_in_parts_takes_the_very_same_step(make_batch, split_batch, objective):
    """Accumulation: losses and gradients of the parts add up to those of the whole batch."""
    batch = make_batch(5, num_snapshots=4)
    config = config_for(1, objective=ObjectiveConfig(objective))
    whole = build_network(TINY, EMBEDDING_DIM, seed=1)
    parts = build_network(TINY, EMBEDDING_DIM, seed=1)
    values = LensNetTraining.of(whole, config).step([examples_for(batch, config)])
    examples = [examples_for(one, config) for one in split_batch(batch)]
    if config.objective.learns_pairs:  # the same pairs in both, whatever their padding
        pairs = random_pairs(batch)
        examples = [_with_pairs(one, pairs, row) for row, one in enumerate(examples)]
    in_parts = LensNetTraining.of(parts, config).step(examples)
    assert in_parts == pytest.approx(values, rel=1e-4, abs=1e-6)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def _with_pairs(part, pairs, row):
    mine = pairs.row == row
    width = part.pairs.contexts.levels.shape[1]
    cut = replace(
        part.pairs,
        direction=pairs.direction[mine][:, :width],
        from_adv_delta=pairs.from_adv_delta[mine],
        to_adv_delta=pairs.to_adv_delta[mine],
    )
    return replace(part, pairs=cut)


def test_bfloat16_learns_too_and_keeps_weights_and_losses_in_float32(make_batch):
    batch = make_batch(1, num_snapshots=4)
    config = config_for(40, precision="bfloat16", log_interval=10)
    network, _, recorder = train(batch, config)
    losses = [values["loss"] for _, split, values in recorder.lines if split == "train"]
    assert losses[-1] < 0.9 * losses[0]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert uses_bfloat16("bfloat16", torch.device("cpu"))
    assert not uses_bfloat16("auto", torch.device("cpu"))
