"""The compiled forward pass: what it computes, and how often it is compiled."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mctrace.datasets.batches.context_tensors import bucketed_length
from mctrace.train.networks.compiled import compiled_network
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.budget import asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.lensnet_gradients import Examples, LensNetGradients
from tests.train.conftest import EMBEDDING_DIM, random_batch

CONFIG = NetworkConfig(d_lens=16, num_heads=2, num_stacks=1, dropout=0.0)


def lengthened(batch, length):
    """The batch with padding after its entries."""
    changes = {}
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor) and value.shape[:2] == batch.levels.shape:
            fill = -1 if name.endswith("_action") else 0
            more = value.new_full((len(value), length - value.shape[1], *value.shape[2:]), fill)
            changes[name] = torch.cat([value, more], dim=1)
    return type(batch)(**{**vars(batch), **changes})


def test_lengths_are_few_and_a_quarter_longer_at_most():
    found = {bucketed_length(n) for n in range(256, 8193)}
    assert len(found) == 4 * 5 + 1
    assert all(n <= bucketed_length(n) <= max(1.25 * n, n + 1) for n in range(1, 8193))


@pytest.mark.parametrize(("price", "match_words"), [(False, False), (True, False), (False, True)])
def test_a_length_is_compiled_once_however_many_batches_have_it(price, match_words):
    torch._dynamo.reset()
    counter = CompileCounter()
    config = replace(CONFIG, match_words=match_words)
    compiled = compiled_network(build_network(config, EMBEDDING_DIM, price=price), counter)
    lengths = set()
    for seed in range(8):
        batch = random_batch(seed, num_spans=4 + seed % 4)
        batch = lengthened(batch, bucketed_length(batch.levels.shape[1]))
        lengths.add(batch.levels.shape[1])
        compiled(batch, asked_rooms(batch))
    assert counter.frame_count <= len(lengths) < 8
    torch._dynamo.reset()


def test_padding_to_a_bucket_changes_neither_loss_nor_gradients():
    batch = random_batch(3)
    found = []
    for one in (batch, lengthened(batch, bucketed_length(batch.levels.shape[1] + 20))):
        network = build_network(CONFIG, EMBEDDING_DIM, price=True, seed=1)
        loss = LensNetGradients(network, ObjectiveConfig())([Examples(one)])
        found.append((loss, [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    (loss, gradients), (padded_loss, padded_gradients) = found
    assert padded_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(gradients, padded_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # a C++ compiler at work
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while it loads its compiler
def test_a_compiled_step_has_the_gradients_of_an_eager_one():
    batch = random_batch(3)
    found = []
    for is_compiled in (False, True):
        network = build_network(CONFIG, EMBEDDING_DIM, seed=1)
        step = LensNetGradients(
            network, ObjectiveConfig(), compiled=compiled_network(network) if is_compiled else None
        )
        loss = step([Examples(batch)])
        found.append((loss, {name: p.grad for name, p in network.named_parameters()}))
    (loss, gradients), (compiled_loss, compiled_gradients) = found
    assert compiled_loss == pytest.approx(loss, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    torch._dynamo.reset()
