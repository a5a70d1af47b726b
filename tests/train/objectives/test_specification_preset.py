"""`--preset specification` against a transcription of the documents' code, for batches of any make.

The functions named `their_...` are the source's (docs/specification/losses.md, metrics.md), line by line.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.config import specification_preset
from mctrace.train.evaluation.batch_metrics import batch_metrics
from mctrace.train.loop.telemetry import SOURCE_NAMES
from mctrace.train.objectives.counterfactual import counterfactual_loss
from tests.train.conftest import random_batch

OBJECTIVE = specification_preset().objective


def their_regression_loss(predictions, targets, mask):
    return ((predictions[mask] - targets[mask]) ** 2).mean()


def their_ranking_loss(predictions, targets, mask, margin=0.1):
    masked_pred, masked_target = predictions[mask], targets[mask]
    n = masked_target.shape[0]
    pairs = []
    for i in range(n):
        for j in range(n):
            if masked_target[i] > masked_target[j] + margin:
                violation = -(masked_pred[i] - masked_pred[j])
                pairs.append(torch.nn.functional.softplus(violation))
    return torch.stack(pairs).mean() if pairs else torch.tensor(0.0)


def their_budget_terms(predictions, span_width, levels):
    expand_scores = torch.relu(predictions) * (levels >= 1)
    expansion_multiplier = torch.where(
        levels == 1, torch.tensor(8.0), torch.where(levels == 2, torch.tensor(64.0), torch.tensor(1.0))
    )
    p = (expand_scores * span_width * (expansion_multiplier - 1)).sum()
    collapse_scores = torch.relu(-predictions) * (levels <= 1)
    return p, (collapse_scores * span_width).sum()


def their_budget_loss(predictions, span_width, levels, eps=1e-6):
    p, n = their_budget_terms(predictions, span_width, levels)
    return ((p - n) / (eps + p + n)) ** 2


def their_illegality_loss(predictions, levels, alpha=0.3, beta=0.3):
    illegal_expand = torch.relu(predictions[levels == 0]).sum()
    illegal_collapse = torch.relu(-predictions[levels == 2]).sum()
    return alpha * illegal_expand + beta * illegal_collapse


def their_ranking_accuracy(predictions, targets, mask):
    masked_pred, masked_target = predictions[mask], targets[mask]
    correct = total = 0
    for i in range(len(masked_pred)):
        for j in range(len(masked_pred)):
            if masked_target[i] > masked_target[j]:
                total += 1
                if masked_pred[i] > masked_pred[j]:
                    correct += 1
    return correct / max(1, total)


def their_budget_balance(predictions, span_width, levels):
    p, n = their_budget_terms(predictions, span_width, levels)
    return 0.0 if p + n < 1e-6 else float(abs(p - n) / (p + n))


def their_legality_rate(predictions, levels):
    violations = (predictions[levels == 0] > 0).sum().item()
    violations += (predictions[levels == 2] < 0).sum().item()
    return 1.0 - violations / len(predictions)


def scores_of(batch: Batch, seed: int) -> torch.Tensor:
    """Scores as a network gives them: 0 where padded."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch.levels.shape, generator=generator) * batch.entry_mask
    return scores.requires_grad_()


BATCHES = {
    "seed": st.integers(0, 10_000),
    "num_snapshots": st.integers(1, 8),
    "num_spans": st.integers(1, 3),
    "measured": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
}


@settings(max_examples=25, deadline=None)
@given(**BATCHES)
def test_terms_and_gradients_are_the_documents_for_any_batch(seed, num_snapshots, num_spans, measured):
    batch = random_batch(seed, num_snapshots=num_snapshots, num_spans=num_spans, measured=measured)
    scores, mask, targets = scores_of(batch, seed), batch.action_mask, batch.target_utilities
    found = counterfactual_loss(scores, batch, OBJECTIVE)
    theirs = {
        # Their mean over nothing is NaN; here it is 0.
        "L_reg": their_regression_loss(scores, targets, mask) if mask.any() else scores.sum() * 0,
        "L_rank": their_ranking_loss(scores, targets, mask),
        "L_budget": their_budget_loss(scores, batch.span_width, batch.levels),
        "L_illegal": their_illegality_loss(scores, batch.levels),
    }
    theirs["total"] = (
        theirs["L_reg"] + 0.5 * theirs["L_rank"] + 0.1 * theirs["L_budget"] + theirs["L_illegal"]
    )
    assert found.terms.keys() | {"total"} == theirs.keys()
    for name, expected in theirs.items():
        term = found.total if name == "total" else found.terms[name]
        torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-5)
        if expected.requires_grad:
            gradients = [torch.autograd.grad(one, scores, retain_graph=True)[0] for one in (term, expected)]
            torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(**BATCHES)
def test_metrics_are_the_documents_for_any_batch(seed, num_snapshots, num_spans, measured):
    batch = random_batch(seed, num_snapshots=num_snapshots, num_spans=num_spans, measured=measured)
    scores, mask, targets = scores_of(batch, seed).detach(), batch.action_mask, batch.target_utilities
    found = batch_metrics(scores, batch)
    assert found["ranking_accuracy"] == their_ranking_accuracy(scores, targets, mask)
    balance = their_budget_balance(scores, batch.span_width, batch.levels)
    assert found["budget_balance"] == pytest.approx(balance, abs=1e-5)
    assert found["legality_compliance"] == pytest.approx(their_legality_rate(scores, batch.levels))
    chosen, wanted = scores[mask].double().numpy(), targets[mask].double().numpy()
    if mask.any():
        assert found["mse"] == pytest.approx(float(np.mean((chosen - wanted) ** 2)))
    if len(chosen) < 2:
        assert found["utility_correlation"] == 0
    elif wanted.std() > 1e-6:
        assert found["utility_correlation"] == pytest.approx(float(np.corrcoef(chosen, wanted)[0, 1]))


def test_the_preset_is_the_documents_settings():
    """Their tables and code: docs/specification/trainer.md#settings, data.md#augmentation, metrics.md."""
    preset = specification_preset()
    assert preset.augment == "spec_augmentation"
    assert preset.log_interval == 100
    assert (preset.network.name, objective_names(preset)) == (
        "dual_cross_attention", ("batch", "specification", "sum", "entries", "batch", "spans"),
    )  # fmt: skip
    assert (preset.objective.rank_margin, preset.objective.residual) == (0.1, "squares")
    assert preset.objective.rank_pairs == "exact"
    optimiser, objective = preset.optimiser, preset.objective
    assert (optimiser.learning_rate, optimiser.betas, optimiser.eps, optimiser.weight_decay) == (
        1e-4, (0.9, 0.999), 1e-8, 0.01,
    )  # fmt: skip
    assert (optimiser.warmup_steps, optimiser.total_steps, optimiser.gradient_clip) == (1000, 50_000, 1.0)
    assert (preset.batch_size, preset.eval_interval, preset.save_interval) == (16, 500, 2000)
    assert preset.keep_last >= math.ceil(optimiser.total_steps / preset.save_interval)
    assert (objective.rank_weight, objective.budget_weight) == (0.5, 0.1)
    assert (objective.illegal_expand, objective.illegal_collapse) == (0.3, 0.3)
    network = preset.network
    assert (network.d_lens, network.num_heads, network.num_stacks, network.dropout) == (512, 8, 2, 0.1)
    assert preset.target == "literal"
    assert specification_preset("preference").augment == ""  # pairs are not augmented


def objective_names(preset):
    found = preset.objective
    return (
        found.rank_scope, found.budget, found.illegality, found.units, found.metrics_scope,
        found.preference.budget,
    )  # fmt: skip


def test_terms_metrics_and_telemetry_have_the_documents_names():
    batch = random_batch(0)
    scores = scores_of(batch, 0)
    assert counterfactual_loss(scores, batch, OBJECTIVE).scalars().keys() == {
        "loss", "L_reg", "L_rank", "L_budget", "L_illegal",
    }  # fmt: skip
    assert batch_metrics(scores.detach(), batch).keys() == {
        "mse", "ranking_accuracy", "utility_correlation", "budget_balance", "legality_compliance",
    }  # fmt: skip
    assert {
        "mc/lens_loss", "mc/adv_delta_mean", "mc/adv_delta_p95", "mc/preference_corr_mean",
        "mc/variants_total", "mc/variants_mean",
    } <= set(SOURCE_NAMES.values())  # fmt: skip
