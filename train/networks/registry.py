"""Registry of networks by name, and the linear baseline."""

import torch
from torch import Tensor, nn

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.dual_cross_attention import DualCrossAttentionLensNet
from mctrace.train.networks.lensnet import NUM_FEATURES, LensNet, entry_features, normalised
from mctrace.train.networks.transformer import TransformerLensNet


class LinearLensNet(LensNet):
    """Linear baseline: score = w · [normalised embedding, features] + b."""

    def __init__(self, embedding_dim: int, *, price: bool = False) -> None:
        width = embedding_dim + NUM_FEATURES
        super().__init__(embedding_dim, width, price=price)
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def read_entries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([normalised(batch.context_embeddings), entry_features(batch)], dim=-1)
        return self.score(inputs).squeeze(-1), inputs


def build_network(
    config: NetworkConfig, embedding_dim: int, *, price: bool = False, seed: int = 0
) -> LensNet:
    """Build the network that `config` names, on the CPU, for embeddings of width `embedding_dim`.

    With `price` it gives values and a price (`Focus`), otherwise scores.

    Initial weights depend on `seed` alone, not on torch's global generator, which is left unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config.name:
            case "dual_cross_attention":
                return DualCrossAttentionLensNet(config, embedding_dim, price=price)
            case "transformer":
                return TransformerLensNet(config, embedding_dim, price=price)
            case "linear":
                return LinearLensNet(embedding_dim, price=price)
