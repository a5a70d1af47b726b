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

    def __init__(self, embedding_dim: int) -> None:
        super().__init__(embedding_dim)
        self.score = nn.Linear(embedding_dim + NUM_FEATURES, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def score_entries(self, batch: Batch) -> Tensor:
        inputs = torch.cat([normalised(batch.context_embeddings), entry_features(batch)], dim=-1)
        scores_BN1: Tensor = self.score(inputs)
        return scores_BN1.squeeze(-1)


def build_network(config: NetworkConfig, embedding_dim: int, *, seed: int = 0) -> LensNet:
    """Build the network that `config` names, on the CPU, for embeddings of width `embedding_dim`.

    Initial weights depend on `seed` alone, not on torch's global generator, which is left unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config.name:
            case "dual_cross_attention":
                return DualCrossAttentionLensNet(config, embedding_dim)
            case "transformer":
                return TransformerLensNet(config, embedding_dim)
            case "linear":
                return LinearLensNet(embedding_dim)
