"""Ranking loss at scale: exact against all pairs at once, unbiased sampling, little memory."""

import pytest
import torch
from torch.nn import functional

from mctrace.train.objectives.ranking import ranking_count, ranking_loss


def snapshots(num_actions, seed=0, num_snapshots=2):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_snapshots, num_actions, generator=generator, requires_grad=True)
    utilities = torch.randn(num_snapshots, num_actions, generator=generator)
    present = torch.rand(num_snapshots, num_actions, generator=generator) < 0.9
    weights = torch.rand(num_snapshots, num_actions, generator=generator)
    return scores, utilities, present, weights


def all_at_once(scores, utilities, present, weights, margin):
    pair = (
        (utilities[:, :, None] > utilities[:, None, :] + margin) & present[:, :, None] & present[:, None, :]
    )
    pair = pair * weights[:, :, None] * weights[:, None, :]
    loss = functional.softplus(scores[:, None, :] - scores[:, :, None]) * pair
    return (loss.sum(dim=(1, 2)) / pair.sum(dim=(1, 2))).mean()


@pytest.mark.parametrize("num_actions", [2, 37, 700])
def test_weighted_pairs_in_blocks_equal_all_pairs_at_once(num_actions):
    scores, utilities, present, weights = snapshots(num_actions)
    present[:] = True
    fast = ranking_loss(scores, utilities, present, 0.01, weights_BA=weights)
    slow = all_at_once(scores, utilities, present, weights, 0.01)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)
    (one,), (other,) = torch.autograd.grad(fast, scores), torch.autograd.grad(slow, scores)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_sampling_is_right_on_average_in_value_and_gradient():
    scores, utilities, present, _ = snapshots(101, seed=1)
    exact = ranking_loss(scores, utilities, present, 0.1)
    (exact_slope,) = torch.autograd.grad(exact, scores)
    torch.manual_seed(0)
    values, slopes = [], []
    for _ in range(400):
        sampled = ranking_loss(scores, utilities, present, 0.1, num_partners=5)
        values.append(sampled.item())
        slopes.append(torch.autograd.grad(sampled, scores)[0])
    assert torch.tensor(values).std() > 0
    assert sum(values) / len(values) == pytest.approx(exact.item(), rel=0.01)
    cosine = functional.cosine_similarity(
        torch.stack(slopes).mean(dim=0).flatten(), exact_slope.flatten(), dim=0
    )
    assert cosine > 0.99


def test_as_many_partners_as_there_are_others_is_exact():
    scores, utilities, present, _ = snapshots(9)
    sampled = ranking_loss(scores, utilities, present, 0.1, num_partners=8)
    assert sampled == ranking_loss(scores, utilities, present, 0.1)


def test_a_part_of_a_batch_is_divided_by_the_count_of_the_whole():
    scores, utilities, present, _ = snapshots(20, num_snapshots=4)
    whole = ranking_loss(scores, utilities, present, 0.1)
    count = ranking_count(utilities, present, 0.1)
    halves = [
        ranking_loss(scores[h], utilities[h], present[h], 0.1, count=count) for h in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves), whole)


def test_snapshots_without_a_pair_do_not_count():
    utilities = torch.tensor([[0.0, 0.05], [0.0, 1.0], [0.0, 1.0]])
    present = torch.tensor([[True, True], [True, False], [True, True]])
    assert ranking_count(utilities, present, 0.1) == 1
    assert ranking_count(utilities[:, :0], present[:, :0], 0.1) == 0


def test_8192_actions_are_ranked_exactly_in_little_memory():
    scores, utilities, present, _ = snapshots(8192, num_snapshots=1)
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = ranking_loss(scores, utilities, present, 0.1)
    loss.backward()
    assert kept < 100 * 8192
    assert scores.grad.isfinite().all()
    assert scores.grad[~present].eq(0).all()
