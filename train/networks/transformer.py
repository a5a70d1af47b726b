"""Transformer LensNet (docs/specification/networks.md#transformer): shallow, over all entries of a context.

Every entry attends to every other, without a causal mask; tail gists are not read. Time grows with N².

Shapes: B snapshots, N entries (padded), D = d_lens, H heads, C = D/H channels, F features.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.gaussian_rope import Rotation, gaussian_rotation, rotated
from mctrace.train.networks.lensnet import (
    INITIAL_SCORE_STD,
    LensNet,
    entry_features,
    normalised,
    num_features,
)


class TransformerLensNet(LensNet):
    """`num_layers` layers with Gaussian RoPE, LayerNorm, a linear or MLP head, and a tanh.

    The features (level, span, distance) are added to the entry before the first layer, since positions alone
    do not show the context's length. Scores are limit·tanh(x/limit): the specification's tanh at a limit of
    1.
    """

    def __init__(
        self, config: NetworkConfig, embedding_dim: int, *, absence: Absence = "off", price: bool = False
    ) -> None:
        width = config.d_lens
        super().__init__(embedding_dim, width, absence=absence, price=price, match_words=config.match_words)
        self.score_limit = config.score_limit
        self.num_channels = width // config.num_heads
        self.down_projection = nn.Linear(embedding_dim, width)
        self.feature_projection = nn.Linear(num_features(absence, match_words=config.match_words), width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        score = nn.Linear(width, 1)
        nn.init.normal_(score.weight, std=INITIAL_SCORE_STD / math.sqrt(width))
        nn.init.zeros_(score.bias)
        hidden = [nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout)]
        self.head = nn.Sequential(nn.LayerNorm(width), *(hidden if config.head == "mlp" else []), score)

    def read_entries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        entries_BND = self.down_projection(normalised(batch.context_embeddings))
        features_BNF = entry_features(batch, match_words=self.match_words)
        entries_BND = entries_BND + self.feature_projection(features_BNF)
        rotation = gaussian_rotation(batch.distance_to_cursor, batch.span_width, self.num_channels)
        # A row of padding only attends to its zeros: attention over nothing would be NaN.
        present_BN = batch.entry_mask | ~batch.entry_mask.any(dim=1, keepdim=True)
        for layer in self.layers:
            entries_BND = layer(entries_BND, rotation, present_BN)
        scores_BN = self.head(entries_BND).squeeze(-1).float()
        return self.score_limit * torch.tanh(scores_BN / self.score_limit), entries_BND


class Layer(nn.Module):
    """Pre-norm transformer layer: self-attention and a feed-forward network on a residual stream."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.d_lens
        self.num_heads = config.num_heads
        self.dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(config.dropout),
        )

    def forward(self, entries_BND: Tensor, rotation: Rotation, present_BN: Tensor) -> Tensor:
        """Entries [B, N, D] after this layer; entries that are not `present_BN` are masked."""
        parts = self.query_key_value(self.attention_norm(entries_BND)).chunk(3, dim=-1)
        query_BHNC, key_BHNC, value_BHNC = (self._split(part) for part in parts)
        read_BHNC = functional.scaled_dot_product_attention(
            rotated(query_BHNC, rotation),
            rotated(key_BHNC, rotation),
            value_BHNC,
            attn_mask=present_BN[:, None, None, :],
        )
        # Dropout on the output, not on the weights: with dropout inside, CPU attention keeps all N² weights.
        entries_BND = entries_BND + self.dropout(self.output(read_BHNC.transpose(1, 2).flatten(2)))
        changed_BND: Tensor = entries_BND + self.feedforward(entries_BND)
        return changed_BND

    def _split(self, sequence_BND: Tensor) -> Tensor:
        """[B, N, D] as [B, H, N, C]."""
        num_rows, length, width = sequence_BND.shape
        return sequence_BND.view(num_rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)
