"""Metrics against brute force, handling of undefined ones, and intervals over documents."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.datasets.batches.padded_batch import scores_of_actions
from mctrace.errors import InputError
from mctrace.train.evaluation.baselines import fit_ridge
from mctrace.train.evaluation.ranking_metrics import kendall_tau_b, ordered_pairs
from mctrace.train.evaluation.snapshot_metrics import snapshot_metrics
from mctrace.train.evaluation.split_evaluation import MetricAccumulator, evaluate_network
from mctrace.train.evaluation.statistics import Moments, bootstrap_interval
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.lensnet_gradients import Examples
from tests.train.pairs import random_pairs


def brute_pairs(scores, targets):
    n = len(scores)
    ordered = [(i, j) for i in range(n) for j in range(n) if targets[i] > targets[j]]
    return sum(scores[i] > scores[j] for i, j in ordered), len(ordered)


@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 8, 17, 64, 100])
@pytest.mark.parametrize("num_values", [1, 3, 1000])
def test_ordered_pairs_are_counted_exactly_with_ties(num_items, num_values):
    rng = np.random.default_rng(num_items * 7 + num_values)
    scores = rng.integers(num_values, size=num_items).astype(float)
    targets = rng.integers(num_values, size=num_items).astype(float)
    assert ordered_pairs(scores, targets) == brute_pairs(scores, targets)


@pytest.mark.parametrize("num_items", [2, 3, 17, 64])
@pytest.mark.parametrize("num_values", [2, 5, 1000])
def test_kendall_s_tau_is_scipy_s(num_items, num_values):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(num_items * 7 + num_values)
    scores = rng.integers(num_values, size=num_items).astype(float)
    targets = rng.integers(num_values, size=num_items).astype(float)
    above, below = kendall_tau_b(scores, targets)
    expected = stats.kendalltau(scores, targets).statistic
    if below:
        assert above / below == pytest.approx(expected)
    else:
        assert np.isnan(expected)


def test_kendall_s_tau_of_many_actions_is_fast():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=200_000)
    above, below = kendall_tau_b(targets + rng.normal(size=200_000), targets)
    assert above / below == pytest.approx(0.5, abs=0.01)


def scores_for(batch, seed=0):
    return torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_snapshot_metrics_are_their_definitions(make_batch, seed):
    batch = make_batch(seed)
    scores = scores_for(batch, seed)
    by_action = scores_of_actions(scores, batch)
    for b, metrics in enumerate(snapshot_metrics(scores, batch)):
        got = {name: statistic.value() for name, statistic in metrics.items()}
        mask = batch.action_mask[b]
        squares = (scores[b] - batch.target_utilities[b]) ** 2
        assert got["mse"] == pytest.approx(squares[mask].mean().item())
        for level in range(3):
            some = squares[mask & (batch.levels[b] == level)]
            expected = some.mean().item() if len(some) else None
            assert got[f"mse_level_{level}"] == (pytest.approx(expected) if len(some) else None)
        here = batch.action_present[b]
        s, y = by_action[b][here].numpy(), batch.action_utilities[b][here].numpy()
        correct, total = brute_pairs(s, y)
        assert got["ranking_accuracy"] == pytest.approx(correct / total)
        assert got["utility_correlation"] == pytest.approx(np.corrcoef(s, y)[0, 1], abs=1e-6)
        for name, kind in (("expand", True), ("collapse", False)):
            some = (batch.action_is_expand[b][here] == kind).numpy()
            if some.sum() > 1:
                delta_nll = batch.action_delta_nll[b][here].numpy()
                expected = np.corrcoef(s[some], delta_nll[some])[0, 1]
                assert got[f"score_delta_nll_{name}"] == pytest.approx(expected, abs=1e-6)
        assert got["legality_compliance"] == pytest.approx(brute_compliance(scores, batch, b))
        assert got["budget_balance"] == pytest.approx(brute_balance(scores, batch, b), abs=1e-6)


def brute_compliance(scores, batch, b):
    entries = batch.entry_mask[b].nonzero().flatten().tolist()
    wrong = sum(
        (batch.levels[b, i] == 0 and scores[b, i] > 0)
        or (batch.levels[b, i] == batch.max_level and scores[b, i] < 0)
        for i in entries
    )
    return 1 - int(wrong) / len(entries)


def brute_balance(scores, batch, b):
    k, expansion, collapse = batch.block_size, 0.0, 0.0
    for i in batch.entry_mask[b].nonzero().flatten().tolist():
        s, level = scores[b, i].item(), int(batch.levels[b, i])
        expansion += (k - 1) * max(s, 0) * (level >= 1)
        collapse += (k - 1) / k * max(-s, 0) * (level < batch.max_level)
    return abs(expansion - collapse) / (expansion + collapse)


def judged(batches, seed=0):
    evaluation = MetricAccumulator(ObjectiveConfig())
    for batch in batches:
        evaluation.add_labels(scores_for(batch, seed), batch)
    return evaluation.result()


def test_documents_are_means_of_their_snapshots_and_pooled_is_over_everything(make_batch):
    batch = make_batch(3, num_snapshots=5)
    result = judged([batch])
    values = [m["mse"].value() for m in snapshot_metrics(scores_for(batch), batch)]
    assert result.per_document["mse"]["document-0"] == pytest.approx(np.mean(values[:2]))
    assert result.per_document["mse"]["document-2"] == pytest.approx(values[4])
    mask = batch.action_mask
    everything = ((scores_for(batch) - batch.target_utilities) ** 2)[mask].mean().item()
    assert result.pooled["mse"] == pytest.approx(everything)
    here = batch.action_present
    by_action = scores_of_actions(scores_for(batch), batch)[here].numpy()
    expected = np.corrcoef(by_action, batch.action_utilities[here].numpy())[0, 1]
    assert result.pooled["utility_correlation"] == pytest.approx(expected, abs=1e-6)
    assert result.num_snapshots == 5
    assert all(np.isfinite(value) for value in result.scalars().values())


def test_metrics_of_signs_are_undefined_for_unsigned_utilities(make_batch):
    batch = make_batch(0)
    scores = torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(0))
    for signed in (True, False):
        evaluation = MetricAccumulator(ObjectiveConfig())
        evaluation.add_labels(scores, replace(batch, signed=signed))
        found = evaluation.result().pooled
        assert ("budget_balance" in found) == ("legality_compliance" in found) == signed
        assert "utility_correlation" in found


def test_undefined_metrics_are_left_out_and_counted(make_batch):
    batch = make_batch(4)
    equal = replace(batch, action_utilities=torch.zeros_like(batch.action_utilities))
    result = judged([equal])
    for name in ("ranking_accuracy", "utility_correlation"):
        assert name not in result.pooled
        assert result.per_document[name] == {}
        assert result.num_undefined[name] == len(batch)
    assert result.num_undefined["mse"] == 0


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_equal_scores_have_no_correlation_alone_or_pooled(constant):
    x, y = np.full(50, constant), np.random.default_rng(0).normal(size=50)
    parts = Moments.of(x[:20], y[:20]) + Moments.of(x[20:], y[20:]) + Moments.of(x[:0], y[:0])
    assert Moments.of(x, y).value() is None
    assert parts.value() is None


def test_pooled_correlation_survives_a_large_mean():
    rng = np.random.default_rng(1)
    x = 1e6 + rng.normal(size=200)
    y = 0.5 * (x - 1e6) + rng.normal(size=200)
    parts = Moments.of(x[:70], y[:70]) + Moments.of(x[70:], y[70:])
    assert parts.value() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_evaluate_restores_training_and_refuses_an_empty_split(make_batch):
    network = build_network(NetworkConfig(d_lens=8, num_heads=2, dropout=0.5), 12).train()
    batches = [Examples(make_batch(0)), Examples(pairs=random_pairs(make_batch(1)))]
    first, second = (evaluate_network(network, batches, ObjectiveConfig()) for _ in range(2))
    assert first == second
    assert network.training
    with pytest.raises(InputError, match="no snapshots"):
        evaluate_network(network, [], ObjectiveConfig())


def test_bootstrap_covers_the_mean_is_seeded_and_ignores_order():
    rng = np.random.default_rng(2)
    values = {f"document-{i}": value for i, value in enumerate(rng.normal(0.3, 1.0, size=200))}
    interval = bootstrap_interval(values, seed=5)
    assert interval.low < interval.mean < interval.high
    half_width = 1.96 * np.std(list(values.values())) / np.sqrt(200)
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.15)
    assert bootstrap_interval(dict(reversed(values.items())), seed=5) == interval
    assert bootstrap_interval(values, seed=6) != interval
    with pytest.raises(InputError, match="no document"):
        bootstrap_interval({}, seed=0)


def test_pairs_are_evaluated_by_scores_of_moves_in_both_directions(make_batch):
    pairs = random_pairs(make_batch(0), pairs_per_context=1)
    groups = tuple("group" for _ in pairs.groups)
    pairs = replace(pairs, groups=groups)
    # each context's scores equal the effect of its one move on the loss
    scores = torch.zeros(pairs.contexts.levels.shape)
    scores[pairs.row] = -pairs.direction * pairs.change[:, None]
    evaluation = MetricAccumulator(ObjectiveConfig("preference"))
    evaluation.add_pairs(scores, pairs)
    result = evaluation.result()
    assert result.pooled["preference_corr"] == pytest.approx(-1)
    assert result.pooled["preference_corr_mean"] == pytest.approx(-1)
    assert result.pooled["preference_agreement"] == 1
    assert (result.num_snapshots, result.num_variants) == (0, len(pairs.contexts))
    assert "L_pref" in result.loss


def test_the_ridge_baseline_recovers_linear_targets(make_batch):
    weights = torch.randn(12, generator=torch.Generator().manual_seed(0))

    def linear(batch):
        targets = torch.nn.functional.layer_norm(batch.context_embeddings, (12,), eps=1e-10) @ weights
        return replace(batch, target_utilities=targets * batch.action_mask)

    train, validation, test = (
        [linear(make_batch(seed)) for seed in some] for some in ((0, 1, 2), (3,), (4,))
    )
    network = fit_ridge(train, validation, ObjectiveConfig())
    (batch,) = test
    torch.testing.assert_close(
        network(batch)[batch.action_mask], batch.target_utilities[batch.action_mask], rtol=1e-2, atol=1e-2
    )
    nothing = replace(batch, action_mask=torch.zeros_like(batch.action_mask))
    with pytest.raises(InputError, match="no entry of the split was measured"):
        fit_ridge([nothing], validation, ObjectiveConfig())
