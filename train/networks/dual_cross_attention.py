"""Dual cross-attention LensNet (docs/specification/networks.md#dual-cross-attention).

Tail gists attend to the context, then entries attend to the gists. Attention runs between N entries and a
handful of gists only, so time and memory grow linearly with N.

Shapes: B snapshots, N entries (padded), G tail gists, S = G + 1 gist slots, D = d_lens, H heads, F features;
Q queries and M memories of one attention.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.lensnet import (
    INITIAL_SCORE_STD,
    LensNet,
    entry_features,
    normalised,
    num_features,
)

NUM_MATCHES = NUM_TAIL_GISTS + 2
"""similarities of an entry: to each tail gist, and their maximum and mean (`tail_matches`)"""
_LEAST_SPREAD = 1e-3
"""smallest standard deviation of cosines to divide by"""


class DualCrossAttentionLensNet(LensNet):
    """Three stages, with the readings of docs/specification/networks.md#dual-cross-attention.

    1. each tail gist attends to the context's entries;
    2. each entry attends to the enriched gists;
    3. a head scores the entry from the attention's result, its own embedding and its features.

    Stages 1 and 2 are repeated `num_stacks` times on residual streams with pre-norm layers. The entries'
    stream starts at their own embeddings: without them the head would see only a mix of gists. One further
    gist slot is learned and always present, so that contexts too short for any tail gist can be scored.

    With `match_tail` the head also gets the similarity of entry and tail gists. It is a product of two
    embeddings at full width, which attention between random projections would need many examples to learn.
    Similarities are standardised over the entries of a context, since raw cosines differ too little from each
    other beside the head's other inputs.
    """

    def __init__(
        self, config: NetworkConfig, embedding_dim: int, *, absence: Absence = "off", price: bool = False
    ) -> None:
        width = config.d_lens
        super().__init__(embedding_dim, width, absence=absence, price=price, match_words=config.match_words)
        self.down_projection = nn.Linear(embedding_dim, width)
        self.slot_SD = nn.Parameter(torch.randn(NUM_TAIL_GISTS + 1, width) * 0.02)
        self.gists_read = nn.ModuleList(CrossAttention(config) for _ in range(config.num_stacks))
        self.entries_read = nn.ModuleList(CrossAttention(config) for _ in range(config.num_stacks))
        self.entry_norm = nn.LayerNorm(width)
        self.match_tail = config.match_tail
        num_inputs = num_features(absence, match_words=config.match_words)
        num_inputs += NUM_MATCHES if config.match_tail else 0
        self.feature_projection = nn.Linear(num_inputs, width)
        score = nn.Linear(width, 1)
        nn.init.normal_(score.weight, std=INITIAL_SCORE_STD / math.sqrt(width))
        nn.init.zeros_(score.bias)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            score,
        )

    def read_entries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        entries_BND = self.down_projection(normalised(batch.context_embeddings))
        gists_BSD = self._gist_slots(batch)
        slot_present_BS = functional.pad(batch.tail_mask, (0, 1), value=True)
        # A row of padding only attends to its zeros: attention over nothing would be NaN.
        entry_present_BN = batch.entry_mask | ~batch.entry_mask.any(dim=1, keepdim=True)
        for gists_read, entries_read in zip(self.gists_read, self.entries_read, strict=True):
            gists_BSD = gists_BSD + gists_read(gists_BSD, entries_BND, entry_present_BN)
            entries_BND = entries_BND + entries_read(entries_BND, gists_BSD, slot_present_BS)
        features_BNF = entry_features(batch, match_words=self.match_words)
        if self.match_tail:
            features_BNF = torch.cat([features_BNF, tail_matches(batch)], dim=-1)
        features_BND = self.feature_projection(features_BNF)
        entries_BND = self.entry_norm(entries_BND)
        return self.head(torch.cat([entries_BND, features_BND], dim=-1)).squeeze(-1), entries_BND

    def _gist_slots(self, batch: Batch) -> Tensor:
        """Tail gists [B, S, D] in the entries' space, with a learned offset per slot; learned slot last."""
        gists_BGD = self.down_projection(normalised(batch.tail_gists))
        return functional.pad(gists_BGD, (0, 0, 0, 1)) + self.slot_SD


def tail_matches(batch: Batch) -> Tensor:
    """Cosine of each entry with each tail gist, then their maximum and mean: [B, N, G + 2].

    Standardised over a context's tokens and, separately, over its gists; 0 where there is no tail gist.
    """
    entries_BNE, gists_BGE = (
        functional.normalize(normalised(embeddings), dim=-1)
        for embeddings in (batch.context_embeddings, batch.tail_gists)
    )
    present_B1G = batch.tail_mask.unsqueeze(1)
    cosine_BNG = entries_BNE @ gists_BGE.transpose(1, 2) * present_B1G
    largest_BN = cosine_BNG.masked_fill(~present_B1G, -1.0).amax(dim=-1)
    mean_BN = cosine_BNG.sum(dim=-1) / present_B1G.sum(dim=-1).clamp(min=1)
    matches_BNF = torch.cat([cosine_BNG, largest_BN.unsqueeze(-1), mean_BN.unsqueeze(-1)], dim=-1)
    is_token_BN = batch.levels == 0
    return sum(
        (_standardised(matches_BNF, batch.entry_mask & alike_BN) for alike_BN in (is_token_BN, ~is_token_BN)),
        start=torch.zeros_like(matches_BNF),
    )


def _standardised(matches_BNF: Tensor, among_BN: Tensor) -> Tensor:
    """Standardise over the entries `among_BN` of each row; 0 elsewhere."""
    among_BN1 = among_BN.unsqueeze(-1).to(matches_BNF.dtype)
    num_B11 = among_BN1.sum(dim=1, keepdim=True).clamp(min=1)
    centred_BNF = (matches_BNF - (matches_BNF * among_BN1).sum(dim=1, keepdim=True) / num_B11) * among_BN1
    variance_B1F = centred_BNF.square().sum(dim=1, keepdim=True) / num_B11
    return centred_BNF / variance_B1F.sqrt().clamp(min=_LEAST_SPREAD)


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence over another, with LayerNorm on both."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.query_norm = nn.LayerNorm(config.d_lens)
        self.memory_norm = nn.LayerNorm(config.d_lens)
        self.query = nn.Linear(config.d_lens, config.d_lens)
        self.key_value = nn.Linear(config.d_lens, 2 * config.d_lens)
        self.output = nn.Linear(config.d_lens, config.d_lens)

    def forward(self, queries_BQD: Tensor, memories_BMD: Tensor, present_BM: Tensor) -> Tensor:
        """Attention output [B, Q, D]; `present_BM` masks memories, and each row needs one that is True."""
        query_BHQ = self._split(self.query(self.query_norm(queries_BQD)))
        key_BMD, value_BMD = self.key_value(self.memory_norm(memories_BMD)).chunk(2, dim=-1)
        read_BHQ = functional.scaled_dot_product_attention(
            query_BHQ,
            self._split(key_BMD),
            self._split(value_BMD),
            attn_mask=present_BM[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        read_BQD: Tensor = self.output(read_BHQ.transpose(1, 2).flatten(2))
        return read_BQD

    def _split(self, sequence_BQD: Tensor) -> Tensor:
        """[B, Q, D] as [B, H, Q, D/H]."""
        num_rows, length, width = sequence_BQD.shape
        return sequence_BQD.view(num_rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)
