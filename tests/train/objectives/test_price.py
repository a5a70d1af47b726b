"""Value and price: terms of a network with a price by their definitions, the price against a known one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings, unlabelled_batch
from mctrace.train.inference import search_price
from mctrace.train.networks.focus import Focus, group_mean, merged_values, signed_scores
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import ASKED_SHARES, asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss, price_loss

K = 4


def focus_for(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    expand, collapse = torch.randn(2, *batch.levels.shape, generator=generator)
    price = 0.2 * torch.rand(len(batch), len(ASKED_SHARES), generator=generator)
    return Focus(expand.requires_grad_(), collapse.requires_grad_(), price.requires_grad_())


def groups_of(batch, b):
    taken = batch.can_collapse[b].nonzero().flatten().tolist()
    return [taken[first : first + K] for first in range(0, len(taken), K)]


def slow_masses(focus, batch, b, r):
    expansion, collapse, moved = 0.0, 0.0, 0
    cost = focus.price_BR[b, r] * (K - 1)
    for i in batch.can_expand[b].nonzero().flatten().tolist():
        u = focus.expand_BN[b, i].detach() - cost
        expansion, moved = expansion + (K - 1) * u.clamp(min=0), moved + (K - 1) * bool(u > 0)
    for group in groups_of(batch, b):
        u = sum(focus.collapse_BN[b, i].detach() for i in group) / K - cost
        collapse, moved = collapse + (K - 1) * (-u).clamp(min=0), moved + (K - 1) * bool(u < 0)
    return expansion, collapse, moved


def slow_budget(focus, batch):
    total = 0.0
    for b in range(len(batch)):
        for r, share in enumerate(ASKED_SHARES):
            p, n, moved = slow_masses(focus, batch, b, r)
            asked = share * int(batch.entry_mask[b].sum()) * float((p + n).detach()) / max(moved, 1)
            total = total + ((p - n - asked) / (1e-6 + p + n + abs(asked))) ** 2
    return total / len(batch) / len(ASKED_SHARES)


@pytest.mark.parametrize("seed", range(4))
def test_terms_of_a_value_and_a_price_are_their_definitions(make_batch, seed):
    batch = replace(make_batch(seed), signed=False)
    focus = focus_for(batch, seed)
    terms = counterfactual_loss(focus, batch, ObjectiveConfig()).terms
    squares, weight, illegal = 0.0, 0.0, {0: [], 2: []}
    for b, i in batch.entry_mask.nonzero().tolist():
        for values, index, share in (
            (focus.expand_BN, batch.expand_action, 1.0), (focus.collapse_BN, batch.collapse_action, 1 / K)
        ):  # fmt: skip
            if index[b, i] >= 0:
                squares = squares + share * (values[b, i] - batch.action_utilities[b, index[b, i]]) ** 2
                weight += share
        cost = focus.price_BR[b, 0].detach() * (K - 1)
        if batch.levels[b, i] == 0:
            illegal[0].append((focus.expand_BN[b, i] - cost).clamp(min=0))
        if batch.levels[b, i] == 2:
            illegal[2].append((cost - focus.collapse_BN[b, i]).clamp(min=0))
    expected = {
        "L_reg": squares / weight,
        "L_budget": slow_budget(focus, batch),
        "L_illegal": 0.3 * sum(illegal[0]) / len(illegal[0]) + 0.3 * sum(illegal[2]) / len(illegal[2]),
    }
    leaves = (focus.expand_BN, focus.collapse_BN, focus.price_BR)
    for name, slow in expected.items():
        torch.testing.assert_close(terms[name], slow, rtol=1e-4, atol=1e-6)
        fast, by_hand = (
            torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
            for term in (terms[name], slow)
        )
        for one, other in zip(fast, by_hand, strict=True):
            assert (one is None) == (other is None), name
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_budget_trains_the_price_alone(make_batch):
    batch = make_batch(2)
    focus = focus_for(batch)
    terms = counterfactual_loss(focus, batch, ObjectiveConfig()).terms
    values = (focus.expand_BN, focus.collapse_BN)
    assert torch.autograd.grad(terms["L_budget"], values, retain_graph=True, allow_unused=True) == (
        None,
        None,
    )
    (of_price,) = torch.autograd.grad(terms["L_budget"], focus.price_BR)
    assert (of_price != 0).any()


def test_signed_scores_are_masked_and_give_each_group_one_score(make_batch):
    batch = make_batch(3)
    focus = focus_for(batch)
    scores = signed_scores(focus, batch)
    assert (scores[batch.levels == 0] <= 0).all()
    assert (scores[(batch.levels == 2)] >= 0).all()
    assert (scores[~batch.can_expand & ~batch.can_collapse] == 0).all()
    for b in range(len(batch)):
        for group in groups_of(batch, b):
            mean = focus.collapse_BN[b, group].mean()
            torch.testing.assert_close(group_mean(focus.collapse_BN, batch)[b, group], mean.expand(K))
            u = mean - (K - 1) * focus.price_BR[b, 0]
            if batch.levels[b, group[0]] == 0:
                torch.testing.assert_close(scores[b, group], u.clamp(max=0).expand(K))


def test_one_value_of_an_entry_is_that_of_its_measured_direction(make_batch):
    batch = make_batch(4, one_action_per_entry=True)
    focus, merged = focus_for(batch), None
    merged = merged_values(focus, batch)
    expands, collapses = batch.expand_action >= 0, batch.collapse_action >= 0
    assert torch.equal(merged[expands], focus.expand_BN[expands])
    assert torch.equal(merged[collapses], focus.collapse_BN[collapses])


class KnownValues(LensNet):
    """The first number of an entry's embedding is its value in both directions: only the price is learned."""

    def __init__(self, width):
        super().__init__(width, width, price=True)

    def read_entries(self, batch):
        return batch.context_embeddings[..., 0], batch.context_embeddings


def context_at(price, rng):
    """A context whose values lie around `price` in pairs: as much is worth expanding as is not worth keeping,
    so that masses and positions both balance there and nowhere else."""
    tree, num_gists = TreeShape(K, 2), 2 * int(rng.integers(4, 9))
    half = rng.uniform(0.05, 1.0, num_gists // 2)
    around = np.concatenate([half, -half])
    gists, blocks = price + rng.permutation(around), price + rng.permutation(around)
    levels = [torch.zeros(2 * num_gists * K, 8), torch.zeros(2 * num_gists, 8), torch.zeros(num_gists, 8)]
    levels[1][:num_gists, 0] = torch.tensor(gists)
    levels[0][num_gists * K :, 0] = torch.tensor(np.repeat(blocks, K))
    lod_map = LODMap(tree, 0, 2 * num_gists * K, np.repeat([1, 0], num_gists).astype(np.uint8))
    return Context(lod_map, TreeEmbeddings(levels))


def test_learned_and_searched_price_find_a_known_one():
    rng = np.random.default_rng(1)
    prices = rng.uniform(0.6, 2.0, 96)
    contexts = [context_at(price, rng) for price in prices]
    torch.manual_seed(0)
    network = KnownValues(8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    taught = unlabelled_batch(contexts[:64])
    for _ in range(150):
        optimiser.zero_grad()
        loss = price_loss(network(taught, asked_rooms(taught)), taught).mean()
        loss.backward()
        optimiser.step()
    held_out, true = contexts[64:], torch.tensor(prices[64:])
    batch = unlabelled_batch(held_out)
    with torch.no_grad():
        focus = network(batch, asked_rooms(batch))
    learned = focus.price_BR * (K - 1)
    # Gists of one level can collapse as well as expand: what they cost is part of the balance.
    searched = search_price(focus, held_out, [0] * len(held_out)).price_BR[:, 0] * (K - 1)
    assert (searched - true).abs().mean() < 0.2
    assert (learned[:, 0] - true).abs().mean() < 0.2
    assert torch.corrcoef(torch.stack([learned[:, 0], searched.double()]))[0, 1] > 0.95
    # In the order of ASKED_SHARES: own size, a quarter less, an eighth less, an eighth more, a quarter more.
    mean = learned.mean(dim=0)
    assert mean[1] > mean[2] > mean[0] > mean[3] > mean[4]
