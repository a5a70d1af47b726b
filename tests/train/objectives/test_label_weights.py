"""Label weights against their definition, entry by entry."""

from dataclasses import replace

import pytest
import torch

from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss
from mctrace.train.objectives.label_weights import action_weights, entry_weights, precision


def noisy(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stderr = torch.rand(batch.action_stderr.shape, generator=generator) * 0.1
    inclusion = 0.1 + 0.9 * torch.rand(batch.action_stderr.shape, generator=generator)
    return replace(batch, action_stderr=stderr, action_inclusion=inclusion, utility_scale=0.02)


def test_precision_is_1_without_noise_and_a_half_at_the_floor():
    assert precision(torch.tensor([0.0, 4.0, 12.0]), 2.0).tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("weigh_by_inclusion", [False, True])
@pytest.mark.parametrize("units", ["actions", "entries"])
def test_entry_weights_are_their_definition(make_batch, weigh_by_inclusion, units):
    batch = noisy(make_batch(1))
    objective = ObjectiveConfig(
        units=units,
        label_weights="inverse_variance",
        variance_floor=1.5,
        weigh_by_inclusion=weigh_by_inclusion,
    )
    found = entry_weights(batch, objective)
    for b in range(len(batch)):
        for i in range(batch.levels.shape[1]):
            expand, collapse = int(batch.expand_action[b, i]), int(batch.collapse_action[b, i])
            measured = [a for a in (expand, collapse) if a >= 0]
            if not measured:
                assert found[b, i] == 0
                continue
            variance = sum((batch.action_stderr[b, a] / 0.02) ** 2 for a in measured)
            weight = 1.5**2 / (variance + 1.5**2)
            if units == "actions" and expand < 0:
                weight = weight / batch.block_size
            if weigh_by_inclusion:
                weight = weight / batch.action_inclusion[b, measured[0]]
            assert found[b, i].item() == pytest.approx(float(weight), rel=1e-5)


def test_action_weights_are_their_definition(make_batch):
    batch = noisy(make_batch(2))
    objective = ObjectiveConfig(label_weights="inverse_variance", weigh_by_inclusion=True)
    found = action_weights(batch, objective)
    expected = 1 / ((batch.action_stderr / 0.02) ** 2 + 1) / batch.action_inclusion
    torch.testing.assert_close(found, expected * batch.action_present)


def test_sampling_weights_are_the_default_and_equal_where_everything_was_measured(make_batch):
    batch, objective = noisy(make_batch(3)), ObjectiveConfig()
    assert torch.equal(action_weights(batch, objective), batch.action_present / batch.action_inclusion)
    batch = replace(batch, action_inclusion=torch.ones_like(batch.action_inclusion))
    assert torch.equal(action_weights(batch, objective), batch.action_present.float())
    assert torch.equal(entry_weights(batch, objective), batch.regression_weights)


def test_the_mean_of_two_labels_varies_less_than_either(make_batch):
    batch = noisy(make_batch(3))
    objective = ObjectiveConfig(label_weights="inverse_variance", weigh_by_inclusion=False)
    both = (batch.expand_action >= 0) & (batch.collapse_action >= 0)
    assert both.any()
    summed, mean = (entry_weights(replace(batch, signed=signed), objective) for signed in (True, False))
    assert (mean[both] > summed[both]).all()
    assert torch.equal(mean[~both], summed[~both])
    row, entry = both.nonzero()[0].tolist()
    of_two = [
        batch.action_stderr[row, index[row, entry]] for index in (batch.expand_action, batch.collapse_action)
    ]
    variance = sum(float(stderr / batch.utility_scale) ** 2 for stderr in of_two) / 4
    assert float(mean[row, entry]) == pytest.approx(1 / (variance + 1), rel=1e-5)


def test_a_noisy_label_moves_the_scores_less(make_batch):
    batch = make_batch(4, one_action_per_entry=True)
    objective = ObjectiveConfig(label_weights="inverse_variance")

    def slope(stderr):
        changed = batch.action_stderr.clone()
        changed[0, 0] = stderr
        scores = torch.zeros(batch.levels.shape, requires_grad=True)
        entry = batch.expand_action[0] == 0
        changed_batch = replace(batch, action_stderr=changed)
        (found,) = torch.autograd.grad(
            counterfactual_loss(scores, changed_batch, objective).terms["L_reg"], scores
        )
        return found[0][entry].abs().sum().item()

    assert batch.action_is_expand[0, 0]
    assert slope(5.0) < 0.2 * slope(0.0)
