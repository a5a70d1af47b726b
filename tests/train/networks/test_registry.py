"""Invariants of every network: padding, determinism, missing tail gists, scale of the embeddings."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mctrace.context.word_matches import NUM_WORD_MATCHES
from mctrace.errors import InputError
from mctrace.train.inference import evaluation_mode, mask_illegal, rebalance, score
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.dual_cross_attention import tail_matches
from mctrace.train.networks.lensnet import entry_features, num_features, word_features
from mctrace.train.networks.registry import build_network

EMBEDDING_DIM = 12
DUAL = NetworkConfig(d_lens=16, num_heads=4, num_stacks=2, dropout=0.5)
TRANSFORMER = NetworkConfig(name="transformer", d_lens=16, num_heads=4, num_layers=2, dropout=0.5)
NETWORKS = [
    DUAL,
    replace(DUAL, match_tail=False),
    NetworkConfig(name="linear"),
    TRANSFORMER,
    replace(TRANSFORMER, num_layers=4, head="linear", score_limit=3.0),
    replace(TRANSFORMER, num_layers=8),
    *(
        replace(config, match_words=True)
        for config in (DUAL, replace(DUAL, match_tail=False), TRANSFORMER, NetworkConfig(name="linear"))
    ),
]
MATCHING = [config for config in NETWORKS if config.match_words]


def network_of(config, seed=0):
    network = build_network(config, EMBEDDING_DIM, seed=seed)
    with torch.no_grad():  # an untrained head scores almost nothing; these tests need scores that differ
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval()


@pytest.mark.parametrize("config", NETWORKS)
def test_padding_never_changes_a_score(make_batch, split_batch, config):
    batch = make_batch(0, num_snapshots=4)
    network = network_of(config)
    scores = network(batch)
    assert (scores[~batch.entry_mask] == 0).all()
    for row, alone in enumerate(split_batch(batch)):
        found = scores[row, : alone.levels.shape[1]]
        torch.testing.assert_close(found, network(alone)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", NETWORKS)
def test_the_content_of_padding_never_changes_a_score(make_batch, config):
    batch = make_batch(1, num_snapshots=4)
    network = network_of(config)
    garbage = torch.where(batch.entry_mask[..., None], batch.context_embeddings, 7.0)
    tail = torch.where(batch.tail_mask[..., None], batch.tail_gists, 7.0)
    dirty = replace(batch, context_embeddings=garbage, tail_gists=tail)
    torch.testing.assert_close(network(dirty), network(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", NETWORKS)
def test_evaluation_is_deterministic_and_seeded(make_batch, config):
    batch = make_batch(2)
    assert torch.equal(network_of(config)(batch), network_of(config)(batch))
    first, second = (build_network(DUAL, EMBEDDING_DIM, seed=seed)(batch) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_the_order_of_the_entries_reaches_a_transformer_through_positions_alone(make_batch):
    """Entries permuted together with their positions get the same scores, permuted."""
    batch = make_batch(3, num_snapshots=1)
    network = network_of(TRANSFORMER)
    order = torch.randperm(batch.levels.shape[1], generator=torch.Generator().manual_seed(0))
    names = ("context_embeddings", "entry_mask", "levels", "span_width", "distance_to_cursor")
    permuted = replace(batch, **{name: getattr(batch, name)[:, order] for name in names})
    torch.testing.assert_close(network(permuted), network(batch)[:, order], rtol=1e-4, atol=1e-5)


def test_building_a_network_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_network(DUAL, EMBEDDING_DIM)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", NETWORKS)
def test_scores_start_near_zero(make_batch, config):
    scores = build_network(config, EMBEDDING_DIM).eval()(make_batch(3))
    assert scores.abs().max() < 0.1


@pytest.mark.parametrize("config", NETWORKS)
def test_all_tail_gists_missing_gives_finite_scores_and_gradients(make_batch, config):
    batch = make_batch(4, tail_gists=False)
    assert not batch.tail_mask.any()
    network = network_of(config).train()
    scores = network(batch)
    scores.square().sum().backward()
    assert scores.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("config", NETWORKS)
def test_a_row_of_padding_alone_stays_finite(make_batch, config):
    batch = make_batch(5)
    batch = replace(batch, entry_mask=torch.zeros_like(batch.entry_mask))
    assert (network_of(config)(batch) == 0).all()


@pytest.mark.parametrize("config", NETWORKS)
def test_scores_do_not_depend_on_the_scale_of_the_embeddings(make_batch, config):
    batch = make_batch(6)
    network = network_of(config)
    scores = network(batch)
    for scale in (0.1, 30.0):
        scaled = replace(
            batch,
            context_embeddings=batch.context_embeddings * scale,
            tail_gists=batch.tail_gists * scale,
        )
        torch.testing.assert_close(network(scaled), scores, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("config", NETWORKS)
def test_labels_are_never_read(make_batch, config):
    batch = make_batch(7)
    network = network_of(config)
    unlabelled = replace(
        batch,
        **{
            field.name: torch.zeros_like(getattr(batch, field.name))
            for field in fields(batch)
            if isinstance(getattr(batch, field.name), Tensor)
            and (
                field.name.startswith(("action_", "target_", "regression_")) or field.name.endswith("_action")
            )
        },
    )
    assert torch.equal(network(unlabelled), network(batch))


@pytest.mark.parametrize(("config", "reads_tail"), [(DUAL, True), (TRANSFORMER, False)])
def test_every_input_reaches_the_score(make_batch, config, reads_tail):
    batch = make_batch(8)
    network = network_of(config)
    scores = network(batch)
    names = ("context_embeddings", "levels", "span_width", "distance_to_cursor")
    for name in (*names, "tail_gists") if reads_tail else names:
        value = getattr(batch, name)
        changed = replace(batch, **{name: value.flip(-1)})
        assert not torch.allclose(network(changed), scores), name


@pytest.mark.parametrize("config", MATCHING)
def test_word_matches_reach_the_score_of_a_network_that_asks_for_them_alone(make_batch, config):
    batch = make_batch(8)
    other = replace(batch, word_matches=batch.word_matches.flip(-1))
    network, blind = network_of(config), network_of(replace(config, match_words=False))
    assert not torch.allclose(network(other), network(batch))
    assert torch.equal(blind(other), blind(replace(batch, word_matches=None)))
    with pytest.raises(InputError, match=r"matches words .*, the batch has no word matches: make it with"):
        network(replace(batch, word_matches=None))


def test_word_features_are_logarithms_and_shares_of_the_largest_of_a_kind(make_batch):
    batch = make_batch(8, num_snapshots=2)
    found_BNF = word_features(batch)
    assert found_BNF.shape[-1] == 2 * NUM_WORD_MATCHES
    assert num_features("off", match_words=True) == entry_features(batch, match_words=True).shape[-1]
    for row in range(len(batch)):
        for kind in (batch.levels[row] == 0, batch.levels[row] > 0):
            matches_NF = batch.word_matches[row][kind & batch.entry_mask[row]]
            logs_NF, shares_NF = found_BNF[row][kind & batch.entry_mask[row]].chunk(2, dim=-1)
            torch.testing.assert_close(logs_NF, torch.log(1 + matches_NF))
            largest_F = matches_NF.amax(dim=0)
            torch.testing.assert_close(shares_NF, matches_NF / largest_F.clamp(min=1e-6))
    nothing = replace(batch, word_matches=torch.zeros_like(batch.word_matches))
    assert not word_features(nothing).any()


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_the_transformer_s_scores_stay_within_their_limit(make_batch, head):
    config = replace(TRANSFORMER, head=head, score_limit=2.0)
    network = network_of(config)
    with torch.no_grad():
        network.head[-1].weight.mul_(1000)
    scores = network(make_batch(9))
    assert scores.abs().max() <= 2.0
    assert scores.abs().max() > 1.5
    assert isinstance(network.head[0], torch.nn.LayerNorm)


def test_operations_grow_linearly_with_the_entries(make_batch):
    batch = make_batch(9, num_snapshots=1)
    network = network_of(DUAL)

    def flops(repeats):
        repeated = {
            name: getattr(batch, name).repeat_interleave(repeats, dim=1)
            for name in ("context_embeddings", "entry_mask", "levels", "span_width", "distance_to_cursor")
        }
        with FlopCounterMode(display=False) as counter:
            network(replace(batch, **repeated))
        return counter.get_total_flops()

    one, two, eight = flops(1), flops(2), flops(8)
    assert eight - one == 7 * (two - one)


def test_matches_are_cosines_with_present_tail_gists_standardised_over_tokens_and_over_gists(
    make_batch,
):
    batch = make_batch(11)
    matches = tail_matches(batch)
    compared = 0
    for b in range(len(batch)):
        present = batch.tail_mask[b].nonzero().flatten().tolist()
        for alike in (batch.levels[b] == 0, batch.levels[b] > 0):
            entries = (alike & batch.entry_mask[b]).nonzero().flatten()
            expected = np.zeros((len(entries), matches.shape[-1]))
            for row, i in enumerate(entries):
                entry = batch.context_embeddings[b, i].double()
                for slot in present:
                    gist = batch.tail_gists[b, slot].double()
                    expected[row, slot] = torch.corrcoef(torch.stack([entry, gist]))[0, 1].item()
            if present and len(entries):
                cosines = expected[:, present]
                expected[:, -2:] = np.stack([cosines.max(axis=1), cosines.mean(axis=1)], axis=1)
                spread = np.maximum(expected.std(axis=0), 1e-3)
                expected = (expected - expected.mean(axis=0)) / spread
                compared += len(entries) > 2
            assert matches[b, entries].numpy() == pytest.approx(expected, abs=2e-3)
        assert not matches[b, ~batch.entry_mask[b]].any()
    assert compared > 3


def test_without_any_tail_gist_nothing_matches(make_batch):
    batch = make_batch(12)
    alone = replace(batch, tail_mask=torch.zeros_like(batch.tail_mask))
    assert not tail_matches(alone).any()
    assert tail_matches(batch).any()


def test_features_lie_between_0_and_1(make_batch):
    batch = make_batch(10)
    features = entry_features(batch)
    assert features.shape == (*batch.levels.shape, 3)
    assert features.min() >= 0
    assert features.max() <= 1
    assert features[batch.levels == batch.max_level][:, :2].eq(1).all()


def test_embeddings_of_another_width_are_refused(make_batch):
    with pytest.raises(InputError, match="width 13, the batch has 12"):
        build_network(DUAL, 13)(make_batch(0))


def test_inference_masks_illegal_directions_and_padding(make_batch):
    batch = make_batch(11)
    scores = torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(0))
    legal = mask_illegal(scores, batch)
    for b in range(len(batch)):
        for i in range(scores.shape[1]):
            level, before, after = int(batch.levels[b, i]), scores[b, i].item(), legal[b, i].item()
            lowest = 0.0 if level == batch.max_level else -math.inf
            highest = 0.0 if level == 0 else math.inf
            expected = min(max(before, lowest), highest) if batch.entry_mask[b, i] else 0.0
            assert after == expected


def test_score_is_legal_without_dropout_and_restores_the_mode(make_batch):
    batch = make_batch(12)
    network = network_of(DUAL).train()
    first, second = score(network, batch, signed=True), score(network, batch, signed=True)
    assert network.training
    assert torch.equal(first, second)
    assert torch.equal(first, mask_illegal(first, batch))
    values = score(network, batch, signed=False)
    assert torch.equal(mask_illegal(values, batch), first)
    assert not torch.equal(values, first)
    with evaluation_mode(network):
        assert not network.training


def test_rebalancing_scales_the_heavier_mass_down(make_batch):
    batch = make_batch(13)
    scores = mask_illegal(torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(2)), batch)
    balanced = rebalance(scores, batch)
    k = batch.block_size
    for b in range(len(batch)):
        expansion = sum((k - 1) * max(s, 0) for s in balanced[b].tolist())
        collapse = sum((k - 1) / k * max(-s, 0) for s in balanced[b].tolist())
        assert expansion == pytest.approx(collapse, rel=1e-4)
        assert (balanced[b] == scores[b])[scores[b] > 0].all() or (balanced[b] == scores[b])[
            scores[b] < 0
        ].all()
    assert (balanced * scores >= 0).all()
