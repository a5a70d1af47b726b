"""Regression tests for the findings of docs/specification/review.md#findings.

Each of its five gaps (targets, polarity, legality, budget, end to end), its risks (silent divergence, forward
cost) and its "likely issues" has a test here. Where the formula itself is tested elsewhere, this file tests
its consequences.
"""

import time
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.collate_pairs import detail_direction
from mctrace.datasets.batches.padded_batch import scores_of_actions
from mctrace.train.config import OptimiserConfig, TrainConfig
from mctrace.train.evaluation.preference_metrics import correlations_of_groups
from mctrace.train.evaluation.split_evaluation import evaluate_network
from mctrace.train.loop.lensnet_training import LensNetTraining
from mctrace.train.loop.sign_alert import SignAlert
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.budget import budget_masses
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import budget_loss, counterfactual_loss, illegality_loss
from mctrace.train.objectives.lensnet_gradients import Examples
from mctrace.train.objectives.preference import preference_loss
from mctrace.train.objectives.preference_state import PreferenceState
from tests.train.pairs import random_pairs

TREE = TreeShape(4, 2)
EMBEDDING_DIM = 12
TINY = {
    "dual_cross_attention": NetworkConfig(d_lens=32, num_heads=4, num_stacks=1, dropout=0.0),
    "transformer": NetworkConfig(name="transformer", d_lens=32, num_heads=4, dropout=0.0),
}


def lod_map(*levels):
    return LODMap(TREE, 0, 4 * len(levels), np.array(levels, dtype=np.uint8))


# 1. Target generation


def test_targets_of_a_worse_context_against_the_best_map_are_signs_at_entries_that_differ():
    worse = lod_map(2, 2, 2, 2, 1, 1, 0, 1)
    best = lod_map(1, 0, 1, 1, 0, 1, 1, 1)
    # the coarse gist and the first block's should expand, the tokens of block 6 collapse, the rest stay
    assert detail_direction(worse, best).tolist() == [1, 1, 0, -1, -1, -1, -1, 0]
    assert detail_direction(worse, worse).any() == np.False_


def test_a_whole_group_is_asked_to_collapse_together():
    found = detail_direction(lod_map(0, 0, 1, 1), lod_map(2, 2, 2, 2))
    assert found.tolist() == [-1] * 10


# 2. Loss polarity


def slope_of(loss, batch):
    scores = torch.zeros(batch.levels.shape, requires_grad=True)
    (found,) = torch.autograd.grad(loss(scores), scores)
    return found


@pytest.mark.parametrize("better_is", ["finer", "coarser"])
def test_a_better_variant_pulls_scores_towards_its_detail(make_batch, better_is):
    pairs = random_pairs(make_batch(0))
    sign = 1.0 if better_is == "finer" else -1.0
    pairs = replace(pairs, direction=pairs.direction.abs() * sign)
    objective = ObjectiveConfig("preference").preference
    plain = replace(objective, rank_weight=0.0, budget_weight=0.0)
    state = PreferenceState(plain)
    slope = slope_of(lambda s: preference_loss(s, pairs, plain, state).total, pairs.contexts)
    touched = torch.zeros_like(slope).index_add(0, pairs.row, pairs.direction.abs()) > 0
    assert (slope[touched] * sign < 0).all()  # descent moves the score the wanted way
    assert (slope[~touched] == 0).all()


def test_a_move_that_made_things_worse_is_not_taught(make_batch):
    """The reviewed code taught every variant the best one's map, even where that change raised the loss."""
    pairs = random_pairs(make_batch(1))
    worse = replace(pairs, to_adv_delta=pairs.from_adv_delta + 0.2)
    objective = replace(ObjectiveConfig().preference, rank_weight=0.0, budget_weight=0.0)
    state = PreferenceState(objective)
    one = slope_of(lambda s: preference_loss(s, pairs, objective, state).total, pairs.contexts)
    other = slope_of(lambda s: preference_loss(s, worse, objective, state).total, pairs.contexts)
    assert (one * other <= 0).all()
    assert (one * other < 0).any()


def test_larger_improvements_weigh_more(make_batch):
    """The reviewed code gave bad contexts more weight; here a pair is weighted by its improvement."""
    pairs = random_pairs(make_batch(2), pairs_per_context=1)
    objective = replace(ObjectiveConfig().preference, rank_weight=0.0, budget_weight=0.0, adv_norm_beta=0.0)
    state = PreferenceState(objective)

    def size(improvement):
        changed = pairs.to_adv_delta.clone()
        changed[0] = pairs.from_adv_delta[0] - improvement
        moved = replace(pairs, to_adv_delta=changed)
        return slope_of(lambda s: preference_loss(s, moved, objective, state).total, pairs.contexts)[0].norm()

    assert size(0.01) < size(0.1) < size(1.0)


# 3. Legality


def test_tokens_never_get_positive_targets_and_the_coarsest_never_negative_ones():
    chance = np.random.default_rng(0)

    def random_map():
        levels = np.repeat(chance.integers(0, 3, 4), 4)
        levels[levels < 2] = chance.integers(0, 2, int((levels < 2).sum()))
        return lod_map(*levels.tolist())

    seen = set()
    for _ in range(200):
        source, other = random_map(), random_map()
        direction, levels = detail_direction(source, other), source.entries.level_N
        assert not (direction[levels == 0] > 0).any()
        assert not (direction[levels == 2] < 0).any()
        seen |= set(zip(levels.tolist(), direction.tolist(), strict=True))
    assert {(0, -1.0), (1, -1.0), (1, 1.0), (2, 1.0)} <= seen


def test_labels_never_get_a_target_of_the_illegal_sign(make_batch):
    for seed in range(5):
        batch = make_batch(seed)
        assert not (batch.target_utilities[batch.levels == 0] > 0).any()
        assert not (batch.target_utilities[batch.levels == batch.max_level] < 0).any()


def test_nothing_but_the_illegality_term_touches_entries_that_were_not_measured(make_batch):
    batch = make_batch(3)
    objective = ObjectiveConfig(budget_weight=0.0, illegal_expand=0.0, illegal_collapse=0.0)
    slope = slope_of(lambda s: counterfactual_loss(s, batch, objective).total, batch)
    assert (slope[~batch.action_mask] == 0).all()
    assert (slope[batch.action_mask] != 0).any()


def test_illegal_directions_are_penalised_and_legal_ones_not(make_batch):
    batch = make_batch(4)
    legal = torch.where(batch.levels == 0, -1.0, torch.where(batch.levels == batch.max_level, 1.0, 0.3))
    objective = ObjectiveConfig()
    assert illegality_loss(legal * batch.entry_mask, batch, objective) == 0
    assert illegality_loss(-legal * batch.entry_mask, batch, objective) > 0


# 4. Budget


def test_the_budget_is_0_when_balanced_1_when_one_sided_and_pulls_towards_balance(make_batch):
    batch = make_batch(5)
    objective = ObjectiveConfig()
    one_sided = torch.where(batch.levels > 0, 1.0, 0.0)
    assert budget_loss(one_sided, batch, objective).item() == pytest.approx(1, abs=1e-4)
    scores = torch.where(batch.levels > 0, 1.0, -1.0) * batch.entry_mask
    expansion, collapse = budget_masses(scores, batch)
    has_both = (expansion > 0) & (collapse > 0)
    assert has_both.any()
    balanced = torch.where(scores > 0, scores * (collapse / expansion.clamp(min=1e-9))[:, None], scores)
    kept = replace(batch, entry_mask=batch.entry_mask & has_both[:, None])
    assert budget_loss(balanced * kept.entry_mask, kept, objective).item() == pytest.approx(0, abs=1e-6)


# 5. End to end


def training(name, objective):
    optimiser = OptimiserConfig(learning_rate=3e-3, warmup_steps=5, total_steps=80)
    config = TrainConfig(
        network=TINY[name], objective=ObjectiveConfig(objective), optimiser=optimiser, device="cpu",
        eval_interval=80, save_interval=80,
    )  # fmt: skip
    return LensNetTraining.of(build_network(config.network, EMBEDDING_DIM), config)


@pytest.mark.parametrize("name", TINY)
def test_after_a_little_training_scores_fall_with_delta_nll(make_batch, name):
    """Expands whose ΔNLL is lowest score highest: the review's smoke test, corr_mean < 0."""
    batch = make_batch(6, num_snapshots=4, one_action_per_entry=True)
    run = training(name, "counterfactual")
    examples = [Examples(labels=batch)]
    run.run(repeat(examples), evaluate=lambda _: {"loss": 0.0}, save=lambda *_: None)
    found = evaluate_network(run.network, examples, run.config.objective).scalars()
    assert found["score_delta_nll_expand_mean"] < -0.2
    assert found["utility_correlation_mean"] > 0.3


@pytest.mark.parametrize("name", TINY)
def test_after_a_little_training_scores_of_moves_fall_with_their_change_of_loss(make_batch, name):
    """preference_corr_mean < 0: of the two moves between variants, the better one scores higher."""
    pairs = random_pairs(make_batch(7, num_snapshots=4), pairs_per_context=1)
    both_ways = replace(
        pairs,
        row=pairs.row.repeat(2),
        direction=torch.cat([pairs.direction, -pairs.direction]),
        from_adv_delta=torch.cat([pairs.from_adv_delta, pairs.to_adv_delta]),
        to_adv_delta=torch.cat([pairs.to_adv_delta, pairs.from_adv_delta]),
        groups=pairs.groups * 2,
    )
    run = training(name, "preference")
    examples = [Examples(pairs=pairs)]
    run.run(repeat(examples), evaluate=lambda _: {"loss": 0.0}, save=lambda *_: None)
    with torch.no_grad():
        correlations = correlations_of_groups(run.network.eval()(pairs.contexts), both_ways)
    assert sum(correlations) / len(correlations) < -0.5


# Likely issues and risks


def test_a_collapse_is_scored_as_the_allocator_will_see_it(make_batch):
    """Entry scores and block decisions: one score per group, the mean, and one label for the whole group."""
    batch = make_batch(8)
    scores = torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(0))
    found = scores_of_actions(scores, batch)
    b, a = (batch.action_present & ~batch.action_is_expand).nonzero()[0].tolist()
    group = batch.collapse_action[b] == a
    assert int(group.sum()) == batch.block_size
    assert found[b, a].item() == pytest.approx(scores[b][group].mean().item(), rel=1e-5)
    only = group & (batch.expand_action[b] < 0)
    assert len(batch.target_utilities[b][only].unique()) <= 1


@pytest.mark.parametrize("name", TINY)
def test_layernorm_stands_before_the_head(name):
    network = build_network(TINY[name], EMBEDDING_DIM)
    assert isinstance(network.head[0], torch.nn.LayerNorm)


@pytest.mark.parametrize("name", TINY)
def test_a_fixed_snapshot_is_scored_equally_every_time(make_batch, name):
    batch = make_batch(9)
    network = build_network(TINY[name], EMBEDDING_DIM, seed=2).eval()
    again = build_network(TINY[name], EMBEDDING_DIM, seed=2).eval()
    first = network(batch)
    assert torch.equal(first, network(batch))
    assert torch.equal(first, again(batch))


def test_learning_the_wrong_sign_raises_an_alert(make_batch):
    """A run on targets of the opposite sign, validated on the right ones, raises the alert."""
    batch = make_batch(6, num_snapshots=4, one_action_per_entry=True)
    upside_down = replace(
        batch, target_utilities=-batch.target_utilities, action_utilities=-batch.action_utilities
    )
    run = training("dual_cross_attention", "counterfactual")
    config = replace(run.config, eval_interval=10)
    heard = []
    replace(run, config=config).run(
        repeat([Examples(labels=upside_down)]),
        evaluate=lambda net: evaluate_network(net, [Examples(labels=batch)], config.objective).scalars(),
        save=lambda *_: None,
        sinks=[SignAlert(heard.append, patience=3)],
    )
    assert any("utility_correlation should be positive" in message for message in heard)


@pytest.mark.parametrize(("name", "limit_s"), [("dual_cross_attention", 1.0), ("transformer", 20.0)])
def test_scoring_8192_entries_stays_cheap(make_batch, name, limit_s):
    """The review's guard against slow forward passes; `make bench-train` measures precisely."""
    batch = make_batch(0, num_snapshots=1)
    repeats = -(-8192 // batch.levels.shape[1])
    names = ("context_embeddings", "entry_mask", "levels", "span_width", "distance_to_cursor")
    wide = replace(batch, **{n: getattr(batch, n).repeat_interleave(repeats, dim=1) for n in names})
    network = build_network(TINY[name], EMBEDDING_DIM).eval()
    started = time.thread_time()  # what other processes do to the clock on the wall is not the network's
    with torch.no_grad():
        network(wide)
    assert time.thread_time() - started < limit_s
