"""What a price costs at inference: scoring one context of 8,192 entries as a runtime does.

Rounds alternate, so that what else the machine does meets all alike; ratios are medians of the rounds'.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.train_batches import TREE
from benchmarks.train_timings import NUM_ENTRIES, Clock, said
from mctrace.context.lod_map import LODMap
from mctrace.datasets.batches.context_tensors import Context, IntArray
from mctrace.train.inference import score_contexts
from mctrace.train.networks.config import NetworkConfig, Price
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network

NUM_GISTS = 1024
PROTECTED_TAIL = 128


@dataclass(frozen=True)
class RandomNodes:
    """Embeddings of a document that was never written."""

    levels: tuple[Tensor, ...]

    def rows(self, level: int, index: IntArray) -> Tensor:
        return self.levels[level][torch.from_numpy(index % len(self.levels[level]))]


def bench_price(device: torch.device, embedding_dim: int, num_rounds: int) -> dict[str, Any]:
    """Seconds to score a context: by a network without a price head, whose price is searched for, and by one
    with a head, by the searched and by the learned price."""
    generator = torch.Generator().manual_seed(0)
    nodes = RandomNodes(tuple(torch.randn(4096, embedding_dim, generator=generator) for _ in range(3)))
    num_token_blocks = (NUM_ENTRIES - NUM_GISTS) // TREE.block_size
    levels = np.repeat([1, 0], [NUM_GISTS, num_token_blocks]).astype(np.uint8)
    context = Context(LODMap(TREE, 0, len(levels) * TREE.block_size, levels), nodes, PROTECTED_TAIL)
    without, with_head = (
        build_network(NetworkConfig(), embedding_dim, price=price).to(device) for price in (False, True)
    )
    ways: dict[str, tuple[LensNet, Price]] = {
        "without_head": (without, "searched"),
        "searched": (with_head, "searched"),
        "learned": (with_head, "learned"),
    }
    clock = Clock(device)
    for number in range(num_rounds + 1):
        if number == 1:  # the first round warms up
            clock.seconds.clear()
        for name, (network, price) in ways.items():
            with clock.timing(name):
                score_contexts(network, [context], signed=False, price=price)
    ratios = {
        f"{name}_over_without_head": statistics.median(
            one / other for one, other in zip(clock.seconds[name], clock.seconds["without_head"], strict=True)
        )
        for name in ("searched", "learned")
    }
    seconds = {f"{name}_s": value for name, value in clock.medians().items()}
    return said({"embedding_dim": embedding_dim, **seconds, **ratios})
