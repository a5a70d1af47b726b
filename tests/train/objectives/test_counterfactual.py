"""Each term, values and gradients, against a slow transcription of its definition; signs of the gradients."""

import math
from dataclasses import replace

import pytest
import torch

from mctrace.train.objectives import ranking
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import (
    budget_loss,
    counterfactual_counts,
    counterfactual_loss,
    illegality_loss,
    penalty,
    regression_loss,
)
from mctrace.train.objectives.ranking import ranking_loss

PLAIN = ObjectiveConfig()

SEEDS = range(4)


def softplus(x):
    return torch.log1p(torch.exp(-abs(x))) + torch.clamp(x, min=0)


def slow_regression(scores, batch):
    total, weight = 0.0, 0.0
    for b, i in batch.action_mask.nonzero().tolist():
        w = batch.regression_weights[b, i]
        total = total + w * (scores[b, i] - batch.target_utilities[b, i]) ** 2
        weight = weight + w
    return total / weight


def slow_action_score(scores, batch, b, a):
    index = batch.expand_action if batch.action_is_expand[b, a] else batch.collapse_action
    group = [scores[b, i] for i in range(scores.shape[1]) if index[b, i] == a]
    return sum(group) / len(group)


def slow_ranking(scores, batch, margin):
    means = []
    for b in range(len(batch)):
        actions = batch.action_present[b].nonzero().flatten().tolist()
        score = {a: slow_action_score(scores, batch, b, a) for a in actions}
        y = batch.action_utilities[b]
        pairs = [softplus(-(score[i] - score[j])) for i in actions for j in actions if y[i] > y[j] + margin]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means)


def slow_budget(scores, batch):
    total, k = 0.0, batch.block_size
    for b in range(len(batch)):
        expansion, collapse = 0.0, 0.0
        for i in batch.entry_mask[b].nonzero().flatten().tolist():
            if batch.levels[b, i] >= 1:
                expansion = expansion + (k - 1) * torch.clamp(scores[b, i], min=0)
            if batch.levels[b, i] < batch.max_level:
                collapse = collapse + (k - 1) / k * torch.clamp(-scores[b, i], min=0)
        total = total + ((expansion - collapse) / (1e-6 + expansion + collapse)) ** 2
    return total / len(batch)


def slow_illegality(scores, batch, objective):
    tokens, coarsest = [], []
    for b, i in batch.entry_mask.nonzero().tolist():
        if batch.levels[b, i] == 0:
            tokens.append(torch.clamp(scores[b, i], min=0))
        if batch.levels[b, i] == batch.max_level:
            coarsest.append(torch.clamp(-scores[b, i], min=0))
    share = [1.0, 1.0] if objective.illegality == "sum" else [1 / len(tokens), 1 / len(coarsest)]
    return objective.illegal_expand * share[0] * sum(tokens) + objective.illegal_collapse * share[1] * sum(
        coarsest
    )


def scores_for(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch.levels.shape, generator=generator, dtype=torch.float32, requires_grad=True)


def assert_same(fast, slow, scores):
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    (fast_gradient,) = torch.autograd.grad(fast, scores)
    (slow_gradient,) = torch.autograd.grad(slow, scores)
    torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_regression_is_its_definition(make_batch, seed):
    batch = make_batch(seed)
    scores = scores_for(batch, seed)
    assert_same(regression_loss(scores, batch, PLAIN), slow_regression(scores, batch), scores)


def test_regression_with_equal_weights_is_the_specification_s(make_batch):
    batch = make_batch(1)
    batch = replace(batch, regression_weights=torch.ones_like(batch.regression_weights))
    scores = scores_for(batch, 1)
    mask = batch.action_mask
    plain = torch.nn.functional.mse_loss(scores[mask], batch.target_utilities[mask])
    assert_same(regression_loss(scores, batch, PLAIN), plain, scores)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pairs", [1, 200, 1 << 18])
def test_ranking_is_its_definition_in_blocks_of_any_size(make_batch, monkeypatch, seed, pairs):
    monkeypatch.setattr(ranking, "PAIRS_PER_BLOCK", pairs)
    batch = make_batch(seed)
    scores = scores_for(batch, seed)
    objective = ObjectiveConfig(rank_margin=0.2)
    fast = counterfactual_loss(scores, batch, objective).terms["L_rank"]
    assert_same(fast, slow_ranking(scores, batch, 0.2), scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_budget_is_its_definition(make_batch, seed):
    batch = make_batch(seed)
    scores = scores_for(batch, seed)
    assert_same(budget_loss(scores, batch, PLAIN), slow_budget(scores, batch), scores)


@pytest.mark.parametrize("illegality", ["sum", "mean"])
def test_illegality_is_its_definition(make_batch, illegality):
    batch = make_batch(2)
    scores = scores_for(batch, 2)
    objective = ObjectiveConfig(illegal_expand=0.3, illegal_collapse=0.7, illegality=illegality)
    assert_same(illegality_loss(scores, batch, objective), slow_illegality(scores, batch, objective), scores)


def test_total_is_the_weighted_sum(make_batch):
    batch = make_batch(3)
    terms = counterfactual_loss(
        scores_for(batch, 3), batch, ObjectiveConfig(rank_weight=0.5, budget_weight=0.1)
    )
    expected = (
        terms.terms["L_reg"]
        + 0.5 * terms.terms["L_rank"]
        + 0.1 * terms.terms["L_budget"]
        + terms.terms["L_illegal"]
    )
    torch.testing.assert_close(terms.total, expected)
    assert terms.scalars()["loss"] == pytest.approx(terms.total.item())
    assert set(terms.scalars()) == {"loss", "L_reg", "L_rank", "L_budget", "L_illegal"}


def test_values_of_detail_have_no_budget_or_illegality_loss(make_batch):
    batch = make_batch(6)
    scores = torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(6))
    signed = counterfactual_loss(scores, batch, ObjectiveConfig())
    values = counterfactual_loss(scores, replace(batch, signed=False), ObjectiveConfig())
    assert signed.terms["L_budget"] > 0
    assert signed.terms["L_illegal"] > 0
    assert set(values.terms) == {"L_reg", "L_rank"}  # not computed, so not reported as 0
    expected = signed.terms["L_reg"] + 0.5 * signed.terms["L_rank"]
    torch.testing.assert_close(values.total, expected)


def test_large_residuals_weigh_less_by_name():
    residual = torch.tensor([-5.0, 0.5, 2.0, 4.0])
    found = {name: penalty(residual, ObjectiveConfig(residual=name, residual_limit=2.0))
             for name in ("squares", "huber", "clipped")}  # fmt: skip
    assert found["squares"].tolist() == [25.0, 0.25, 4.0, 16.0]
    assert found["huber"].tolist() == [16.0, 0.25, 4.0, 12.0]
    assert found["clipped"].tolist() == [4.0, 0.25, 4.0, 4.0]


def test_padding_changes_no_term(make_batch, split_batch):
    batch = make_batch(4, num_snapshots=4)
    scores = scores_for(batch, 4).detach()
    for row, alone in enumerate(split_batch(batch)):
        size = alone.levels.shape[1]
        padded = torch.where(batch.entry_mask, scores, torch.full_like(scores, 5.0))
        only = replace(
            batch,
            entry_mask=batch.entry_mask & (torch.arange(4) == row)[:, None],
            action_mask=batch.action_mask & (torch.arange(4) == row)[:, None],
            action_present=batch.action_present & (torch.arange(4) == row)[:, None],
        )
        objective = ObjectiveConfig()
        within = counterfactual_loss(padded, only, objective)
        by_itself = counterfactual_loss(scores[row : row + 1, :size], alone, objective)
        torch.testing.assert_close(within.terms["L_reg"], by_itself.terms["L_reg"])
        torch.testing.assert_close(within.terms["L_rank"], by_itself.terms["L_rank"])
        torch.testing.assert_close(within.terms["L_illegal"], by_itself.terms["L_illegal"])
        torch.testing.assert_close(within.terms["L_budget"] * len(batch), by_itself.terms["L_budget"])


def gradient(term, batch):
    """Gradient of the term at scores of zero, where no direction is preferred."""
    scores = torch.zeros(batch.levels.shape, requires_grad=True)
    (found,) = torch.autograd.grad(term(scores), scores)
    return found


@pytest.mark.parametrize("term", ["L_reg", "L_rank"])
def test_descent_raises_wanted_expands_and_lowers_wanted_collapses(make_batch, term):
    batch = make_batch(5, one_action_per_entry=True)
    objective = ObjectiveConfig(rank_margin=0)
    found = gradient(lambda scores: counterfactual_loss(scores, batch, objective).terms[term], batch)
    raised, lowered = 0, 0
    for b in range(len(batch)):
        utilities = batch.action_utilities[b][batch.action_present[b]]
        best, worst = int(utilities.argmax()), int(utilities.argmin())
        if utilities[best] > 0 and batch.action_is_expand[b, best]:
            assert (found[b][batch.expand_action[b] == best] < 0).all()
            raised += 1
        if utilities[worst] < 0 and not batch.action_is_expand[b, worst]:
            assert (found[b][batch.collapse_action[b] == worst] > 0).all()
            lowered += 1
    assert raised
    assert lowered


@pytest.mark.parametrize("illegality", ["sum", "mean"])
def test_illegal_scores_are_pushed_towards_legal_ones(make_batch, illegality):
    batch = make_batch(6)
    objective = ObjectiveConfig(illegality=illegality)
    for sign in (1.0, -1.0):
        scores = torch.full(batch.levels.shape, sign, requires_grad=True)
        (found,) = torch.autograd.grad(illegality_loss(scores, batch, objective), scores)
        illegal = batch.entry_mask & (batch.levels == (0 if sign > 0 else batch.max_level))
        assert (found[illegal] * sign > 0).all()
        assert (found[~illegal] == 0).all()


def test_budget_lowers_expansions_when_they_outweigh_collapses(make_batch):
    batch = make_batch(7)
    scores = torch.where(batch.levels >= 1, 2.0, -0.1).requires_grad_()
    (found,) = torch.autograd.grad(budget_loss(scores, batch, PLAIN), scores)
    expandable = batch.entry_mask & (batch.levels >= 1)
    assert (found[expandable] > 0).all()


def nothing_measured(batch):
    return replace(
        batch,
        action_mask=torch.zeros_like(batch.action_mask),
        action_present=torch.zeros_like(batch.action_present),
        regression_weights=torch.zeros_like(batch.regression_weights),
    )


def no_actions(batch):
    empty = {
        name: getattr(batch, name)[:, :0]
        for name in (
            "action_present",
            "action_is_expand",
            "action_utilities",
            "action_delta_nll",
            "action_stderr",
            "action_positions",
            "action_inclusion",
        )
    }
    nowhere = torch.full_like(batch.expand_action, -1)
    return replace(nothing_measured(batch), expand_action=nowhere, collapse_action=nowhere, **empty)


def equal_targets(batch):
    return replace(
        batch,
        action_utilities=torch.zeros_like(batch.action_utilities),
        target_utilities=torch.zeros_like(batch.target_utilities),
    )


@pytest.mark.parametrize("change", [nothing_measured, no_actions, equal_targets, lambda batch: batch])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e12])
def test_degenerate_batches_give_finite_losses_and_gradients(make_batch, change, scale):
    batch = change(make_batch(8))
    scores = (scores_for(batch, 8).detach() * scale).requires_grad_()
    terms = counterfactual_loss(scores, batch, ObjectiveConfig())
    terms.total.backward()
    assert all(math.isfinite(value) for value in terms.scalars().values())
    assert scores.grad.isfinite().all()


def test_a_single_entry_has_a_finite_loss(make_batch, split_batch):
    batch = next(
        b for seed in range(50) for b in split_batch(make_batch(seed, num_spans=1)) if b.levels.shape[1] == 1
    )
    scores = torch.ones(1, 1, requires_grad=True)
    terms = counterfactual_loss(scores, batch, ObjectiveConfig())
    terms.total.backward()
    assert terms.terms["L_rank"].item() == 0
    assert scores.grad.isfinite().all()


def test_ranking_of_many_actions_keeps_no_pairs():
    """Memory kept for the backward pass grows with the actions, not with their pairs."""
    num_actions, kept = 2000, 0

    def count(tensor):
        nonlocal kept
        kept += tensor.untyped_storage().nbytes()
        return tensor

    scores = torch.randn(1, num_actions, requires_grad=True)
    present = torch.ones(1, num_actions, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = ranking_loss(scores, torch.randn(1, num_actions), present, 0.1)
    assert kept < num_actions**2
    loss.backward()
    assert scores.grad.isfinite().all()


def slow_specification_budget(scores, batch):
    """The specification's form of docs/specification/losses.md#budget, term by term, over real entries."""
    expansion, collapse = 0.0, 0.0
    for b, i in batch.entry_mask.nonzero().tolist():
        level, span, score = int(batch.levels[b, i]), float(batch.span_width[b, i]), scores[b, i]
        if level >= 1:
            multiplier = {1: 8.0, 2: 64.0}[level]
            expansion = expansion + torch.relu(score) * span * (multiplier - 1)
        if level <= 1:
            collapse = collapse + torch.relu(-score) * span
    return ((expansion - collapse) / (1e-6 + expansion + collapse)) ** 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_specification_s_budget_is_available_by_name(make_batch, seed):
    batch = make_batch(seed)
    scores = scores_for(batch, seed)
    objective = ObjectiveConfig(budget="specification")
    assert_same(budget_loss(scores, batch, objective), slow_specification_budget(scores, batch), scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_specification_s_entry_wise_regression_and_ranking_are_available_by_name(make_batch, seed):
    """The specification's regression and ranking (docs/specification/losses.md#units), on one snapshot."""
    batch = make_batch(seed, num_snapshots=1)
    scores = scores_for(batch, seed)
    found = counterfactual_loss(scores, batch, ObjectiveConfig(units="entries")).terms
    predictions, targets = scores[batch.action_mask], batch.target_utilities[batch.action_mask]
    assert_same(found["L_reg"], ((predictions - targets) ** 2).mean(), scores)
    found = counterfactual_loss(scores, batch, ObjectiveConfig(units="entries")).terms
    predictions = scores[batch.action_mask]
    pairs = [
        softplus(-(predictions[i] - predictions[j]))
        for i in range(len(targets))
        for j in range(len(targets))
        if targets[i] > targets[j] + 0.1
    ]
    assert_same(found["L_rank"], torch.stack(pairs).mean(), scores)


@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig(units="entries", illegality="sum")])
def test_parts_divided_by_the_whole_s_counts_add_up(make_batch, split_batch, objective):
    batch = make_batch(9, num_snapshots=4)
    scores = scores_for(batch, 9).detach()
    whole = counterfactual_loss(scores, batch, objective)
    counts = counterfactual_counts(batch, objective)
    parts = [
        counterfactual_loss(scores[row : row + 1, : one.levels.shape[1]], one, objective, counts)
        for row, one in enumerate(split_batch(batch))
    ]
    for name, term in whole.terms.items():
        torch.testing.assert_close(sum(part.terms[name] for part in parts), term, msg=name)
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
