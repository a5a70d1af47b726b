"""Each preference term, values and gradients, against a slow transcription; degenerate cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.train.objectives.config import PreferenceConfig
from mctrace.train.objectives.preference import (
    bradley_terry,
    net_mass_of,
    policy_kl,
    preference_loss,
    preference_strength,
    preference_telemetry,
    rank_hinge,
    variant_telemetry,
)
from mctrace.train.objectives.preference_state import PreferenceState
from tests.train.pairs import random_pairs

SEEDS = range(3)


def softplus(x):
    return torch.log1p(torch.exp(-abs(x))) + torch.clamp(x, min=0)


def scores_for(pairs, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pairs.contexts.levels.shape, generator=generator, requires_grad=True)


def entries_of(pairs, p):
    """(entry, wanted direction) of every entry that differs, towards the better context."""
    better = 1 if pairs.change[p] < 0 else -1
    found = pairs.direction[p].nonzero().flatten().tolist()
    return [(j, better * pairs.direction[p, j].item()) for j in found]


def slow_bradley_terry(scores, pairs, strength, temperature, collapse_weight):
    losses = []
    for p in range(len(pairs)):
        terms = []
        for j, sign in entries_of(pairs, p):
            weight = strength[p] * (collapse_weight if sign < 0 else 1.0)
            terms.append(softplus(-sign * scores[pairs.row[p], j] / temperature) * weight)
        if terms:
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


def slow_hinge(scores, pairs, margin):
    losses = []
    for p in range(len(pairs)):
        expand = [scores[pairs.row[p], j] for j, sign in entries_of(pairs, p) if sign > 0]
        collapse = [scores[pairs.row[p], j] for j, sign in entries_of(pairs, p) if sign < 0]
        if expand and collapse:
            gap = sum(expand) / len(expand) - sum(collapse) / len(collapse)
            losses.append(torch.clamp(margin - gap, min=0))
    return sum(losses) / len(losses)


def slow_kl(previous, scores, batch, temperature):
    losses = []
    for b in range(len(batch)):
        if batch.snapshot_ids[b] not in previous:
            continue
        terms = []
        for i in batch.entry_mask[b].nonzero().flatten().tolist():
            p = torch.sigmoid(previous[batch.snapshot_ids[b]][i] / temperature)
            q = torch.sigmoid(scores[b, i] / temperature)
            terms.append(p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q)))
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


def slow_net_mass(scores, batch, b):
    k, expansion, collapse = batch.block_size, 0.0, 0.0
    for i in batch.entry_mask[b].nonzero().flatten().tolist():
        if batch.levels[b, i] >= 1:
            expansion = expansion + (k - 1) * torch.clamp(scores[b, i], min=0)
        if batch.levels[b, i] < batch.max_level:
            collapse = collapse + (k - 1) / k * torch.clamp(-scores[b, i], min=0)
    return (expansion - collapse) / (1e-6 + expansion + collapse)


def assert_same(fast, slow, scores):
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)
    (fast_gradient,) = torch.autograd.grad(fast, scores, retain_graph=True)
    (slow_gradient,) = torch.autograd.grad(slow, scores)
    torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("towards", ["better", "worse"])
def test_bradley_terry_is_its_definition(make_batch, seed, towards):
    pairs = random_pairs(make_batch(seed), seed)
    if towards == "worse":  # a move to a worse context wants the opposite of what it does
        pairs = replace(pairs, to_adv_delta=pairs.from_adv_delta + 0.1)
    scores = scores_for(pairs, seed)
    objective = PreferenceConfig(temperature=0.5, collapse_weight=2.0)
    strength = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed))
    fast = bradley_terry(scores[pairs.row], pairs, strength, objective)
    assert_same(fast, slow_bradley_terry(scores, pairs, strength, 0.5, 2.0), scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rank_hinge_is_its_definition(make_batch, seed):
    pairs = random_pairs(make_batch(seed), seed)
    scores = scores_for(pairs, seed)
    assert_same(rank_hinge(scores[pairs.row], pairs, 0.3), slow_hinge(scores, pairs, 0.3), scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_policy_kl_is_its_definition_and_0_where_nothing_changed(make_batch, seed):
    batch = make_batch(seed)
    pairs = random_pairs(batch, seed)
    scores = scores_for(pairs, seed)
    state = PreferenceState(PreferenceConfig(kl_weight=1.0))
    generator = torch.Generator().manual_seed(seed + 9)
    lengths = batch.entry_mask.sum(dim=1).tolist()
    before = {
        name: torch.randn(length, generator=generator)
        for name, length in list(zip(batch.snapshot_ids, lengths, strict=True))[:2]
    }
    state.observe_scores(before, [])
    previous, known = state.previous_scores(batch)
    assert known.tolist() == [True, True, False]
    assert_same(policy_kl(previous, scores, known, batch, 0.7), slow_kl(before, scores, batch, 0.7), scores)
    assert policy_kl(previous, previous, known, batch, 0.7).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_budget_and_smoothing_are_their_definitions(make_batch, seed):
    pairs = random_pairs(make_batch(seed), seed)
    scores = scores_for(pairs, seed)
    objective = PreferenceConfig(budget_smooth_weight=1.0, budget_smooth_beta=0.6)
    state = PreferenceState(objective)
    state.observe_scores({}, [0.5, 0.1])
    state.observe_scores({}, [-0.4])
    running = 0.6 * (0.4 * 0.3) + 0.4 * -0.4
    assert state.net_mass == pytest.approx(running)
    masses = [slow_net_mass(scores, pairs.contexts, b) for b in range(len(pairs.contexts))]
    terms = preference_loss(scores, pairs, objective, state).terms
    assert_same(terms["L_pref_budget"], sum(m**2 for m in masses) / len(masses), scores)
    masses = [slow_net_mass(scores, pairs.contexts, b) for b in range(len(pairs.contexts))]
    smooth = sum((m - running) ** 2 for m in masses) / len(masses)
    assert_same(preference_loss(scores, pairs, objective, state).terms["L_budget_smooth"], smooth, scores)


def test_strength_is_the_tanh_of_the_difference_in_nats_or_in_running_deviations(make_batch):
    pairs = random_pairs(make_batch(0))
    plain = PreferenceConfig(adv_norm_beta=0.0)
    gap = (pairs.from_adv_delta - pairs.to_adv_delta).abs()
    found = preference_strength(pairs, plain, PreferenceState(plain))
    torch.testing.assert_close(found, torch.tanh(gap))
    normalised = PreferenceConfig(adv_norm_beta=0.8)
    state = PreferenceState(normalised)
    state.observe_advantages([0.0, 0.2])  # mean 0.1, variance 0.01
    assert state.adv_deviation == pytest.approx(0.1)
    state.observe_advantages([0.4, 0.4])
    mean = 0.8 * 0.1 + 0.2 * 0.4
    variance = 0.8 * 0.01 + 0.2 * (0.4 - mean) ** 2
    assert state.adv_deviation == pytest.approx(math.sqrt(variance))
    found = preference_strength(pairs, normalised, state)
    torch.testing.assert_close(found, torch.tanh(gap / math.sqrt(variance)))


def test_total_is_the_weighted_sum(make_batch):
    pairs = random_pairs(make_batch(1))
    objective = PreferenceConfig(rank_weight=0.3, budget_weight=0.2, kl_weight=0.7, budget_smooth_weight=0.4)
    state = PreferenceState(objective)
    scores = scores_for(pairs, 1)
    state.observe_scores({pairs.contexts.snapshot_ids[0]: torch.zeros(3)}, [0.2])
    found = preference_loss(scores, pairs, objective, state)
    weights = {"L_pref": 1.0, "L_pref_rank": 0.3, "L_pref_budget": 0.2, "L_kl": 0.7, "L_budget_smooth": 0.4}
    expected = sum(weights[name] * term for name, term in found.terms.items())
    torch.testing.assert_close(found.total, expected)
    assert found.terms["L_kl"] > 0


def alike(pairs):
    return replace(pairs, direction=torch.zeros_like(pairs.direction))


def equally_good(pairs):
    return replace(pairs, to_adv_delta=pairs.from_adv_delta.clone())


@pytest.mark.parametrize("change", [alike, equally_good, lambda pairs: pairs])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e12])
def test_degenerate_pairs_give_finite_losses_and_gradients(make_batch, change, scale):
    pairs = change(random_pairs(make_batch(2)))
    objective = PreferenceConfig(kl_weight=1.0, budget_smooth_weight=1.0)
    state = PreferenceState(objective)
    state.observe_advantages([0.1, 0.1])
    lengths = pairs.contexts.entry_mask.sum(dim=1).tolist()
    names = pairs.contexts.snapshot_ids
    state.observe_scores({n: torch.full((k,), 30.0) for n, k in zip(names, lengths, strict=True)}, [0.0])
    scores = (scores_for(pairs, 2).detach() * scale).requires_grad_()
    found = preference_loss(scores, pairs, objective, state)
    found.total.backward()
    assert all(math.isfinite(value) for value in found.scalars().values())
    assert scores.grad.isfinite().all()


def test_telemetry_has_the_specification_s_names(make_batch):
    pairs = random_pairs(make_batch(3))
    agreeing = torch.zeros(pairs.contexts.levels.shape)
    agreeing[pairs.row[0]] = pairs.direction[0]
    found = preference_telemetry(agreeing, pairs)
    assert 0 < found["preference_agreement"] <= 1
    assert found["variants_total"] == sum(map(len, pairs.evaluated.values()))
    assert found["adv_delta_p95"] >= found["adv_delta_mean"]


def test_every_variant_counts_once_whatever_the_groups_and_pairs():
    groups = {"a": {"a0": 0.0, "a1": 0.1, "a2": 0.2, "a3": 0.9, "a4": 1.0}, "b": {"b0": 0.0, "b1": -0.1}}
    found = variant_telemetry(groups)
    advs = np.array([0.0, 0.1, 0.2, 0.9, 1.0, 0.0, -0.1])
    assert found["adv_delta_mean"] == pytest.approx(advs.mean())
    assert found["adv_delta_p95"] == pytest.approx(np.quantile(advs, 0.95))  # not the mean of the groups'
    assert (found["variants_total"], found["variants_mean"]) == (7, 3.5)


def test_the_state_comes_back_from_its_tensors(make_batch):
    objective = PreferenceConfig(kl_weight=1.0)
    state, other = PreferenceState(objective), PreferenceState(objective)
    state.observe_advantages([0.1, 0.7])
    state.observe_scores({"a:1": torch.tensor([1.0, 2.0])}, [0.25])
    other.restore(state.tensors())
    assert (other.adv_deviation, other.net_mass) == (state.adv_deviation, state.net_mass)
    assert torch.equal(other.tensors()["previous/a:1"], torch.tensor([1.0, 2.0]))
    fresh = PreferenceState(objective)
    fresh.restore(PreferenceState(objective).tensors())
    assert fresh.adv_deviation == 1.0


def test_net_mass_is_1_when_only_expansions_are_wanted(make_batch):
    batch = make_batch(4)
    assert net_mass_of(torch.ones(batch.levels.shape), batch).min() > 0.99
