"""Registry of networks by name, and the linear baseline."""

import torch
from torch import Tensor, nn

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.dual_cross_attention import DualCrossAttentionLensNet
from mctrace.train.networks.lensnet import LensNet, entry_features, normalised, num_features
from mctrace.train.networks.transformer import TransformerLensNet


class LinearLensNet(LensNet):
    """Linear baseline: score = w · [normalised embedding, features] + b."""

    def __init__(
        self,
        embedding_dim: int,
        *,
        absence: Absence = "off",
        price: bool = False,
        match_words: bool = False,
    ) -> None:
        width = embedding_dim + num_features(absence, match_words=match_words)
        super().__init__(embedding_dim, width, absence=absence, price=price, match_words=match_words)
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def read_entries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features_BNF = entry_features(batch, match_words=self.match_words)
        inputs = torch.cat([normalised(batch.context_embeddings), features_BNF], dim=-1)
        return self.score(inputs).squeeze(-1), inputs


def build_network(
    config: NetworkConfig,
    embedding_dim: int,
    *,
    absence: Absence = "off",
    price: bool = False,
    seed: int = 0,
) -> LensNet:
    """Build the network that `config` names, on the CPU, for embeddings of width `embedding_dim`.

    `absence` is that of the trees it reads. With `price` it gives values and a price (`Focus`), otherwise
    scores. Initial weights depend on `seed` alone, not on torch's global generator, which is left unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config.name:
            case "dual_cross_attention":
                return DualCrossAttentionLensNet(config, embedding_dim, absence=absence, price=price)
            case "transformer":
                return TransformerLensNet(config, embedding_dim, absence=absence, price=price)
            case "linear":
                return LinearLensNet(
                    embedding_dim, absence=absence, price=price, match_words=config.match_words
                )
