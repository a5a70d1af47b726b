"""Base class of LensNets, and the input features they share: a score per entry, or values and a price.

Shapes: B snapshots, N entries (padded), E embedding width, F features, D width of hidden states, R
budgets asked for.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.context.tree import Absence
from mctrace.context.word_matches import NUM_WORD_MATCHES
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.errors import InputError
from mctrace.train.networks.focus import Focus, Scores
from mctrace.train.networks.price_head import PriceHead


def num_features(absence: Absence, *, match_words: bool = False) -> int:
    """Number of features F of an entry: level, span, distance, a flag where blocks may be absent, and two
    of each word match where words are matched."""
    return (3 if absence == "off" else 4) + (2 * NUM_WORD_MATCHES if match_words else 0)


_LEAST_MATCH = 1e-6
"""smallest word match to divide by"""
INITIAL_SCORE_STD = 0.02
"""approximate standard deviation of an untrained network's scores; that of targets is about 1"""


class LensNet(nn.Module, ABC):
    """Maps a `Batch` to scores [B, N]: positive asks for more detail, negative for less, zero where padded.

    With a price it gives a `Focus` instead: the value of detail of each entry, and the price of a position in
    each context. A direction that an entry's level forbids has a value of its own, the entry's plus an
    offset. Neither price nor offset sends gradients into the rest of the network, so they do not bend the
    values that are measured.

    Subclasses implement `read_entries`. It reads the inputs of a batch only, never labels, and the outputs of
    real entries must not depend on the padding beside them.
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int,
        *,
        price: bool = False,
        absence: Absence = "off",
        match_words: bool = False,
    ) -> None:
        """`width` is D, that of the hidden states that `read_entries` returns."""
        super().__init__()
        self.embedding_dim = embedding_dim
        self.match_words = match_words
        with torch.random.fork_rng(devices=[]):  # the other weights are those of a network without a price
            self.price_head = PriceHead(width, embedding_dim, absence) if price else None
            self.illegal_offset = nn.Linear(width, 1) if price else None

    def parts(self) -> list[list[nn.Parameter]]:
        """Parameters with gradients of their own: of the values, and of the price and the offset."""
        of_price = {
            id(parameter)
            for module in (self.price_head, self.illegal_offset)
            if module is not None
            for parameter in module.parameters()
        }
        found: list[list[nn.Parameter]] = [[], []]
        for parameter in self.parameters():
            found[id(parameter) in of_price].append(parameter)
        return [part for part in found if part]

    @abstractmethod
    def read_entries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores or values [B, N] in score units, and hidden states [B, N, D] to pool for a price; anything
        finite where padded."""

    def forward(self, batch: Batch, room_BR: Tensor | None = None) -> Scores:
        """Scores [B, N] in score units, or a `Focus`; zero where padded.

        `room_BR` are the positions by which each context may grow, for one or more prices; without it one
        price, at which it keeps its size. Raises InputError when the width of the batch's embeddings differs
        from `embedding_dim`, or when it lacks the word matches that the network reads.
        """
        width = batch.context_embeddings.shape[-1]
        if width != self.embedding_dim:
            raise InputError(
                f"this LensNet reads embeddings of width {self.embedding_dim}, the batch has {width}: "
                "its data come from another base model; train a LensNet for that one"
            )
        if self.match_words and batch.word_matches is None:
            raise InputError(
                "this LensNet matches words (train.network.match_words), the batch has no word matches: make "
                "it with match_words=True"
            )
        value_BN, hidden_BND = self.read_entries(batch)
        value_BN = torch.where(batch.entry_mask, value_BN, torch.zeros_like(value_BN))
        if self.price_head is None or self.illegal_offset is None:
            return value_BN
        offset_BN = self.illegal_offset(hidden_BND.detach()).squeeze(-1) * batch.entry_mask
        illegal_BN = value_BN.detach() + offset_BN
        expand_BN = torch.where(batch.levels == 0, illegal_BN, value_BN)
        collapse_BN = torch.where(batch.levels == batch.coarsest, illegal_BN, value_BN)
        room_BR = value_BN.new_zeros(len(value_BN), 1) if room_BR is None else room_BR
        return Focus(
            expand_BN, collapse_BN, self.price_head(hidden_BND, (expand_BN, collapse_BN), batch, room_BR)
        )


def entry_features(batch: Batch, *, match_words: bool = False) -> Tensor:
    """Level, span width and distance to the cursor of each entry, each in [0, 1]: [B, N, F].

    Normalised by the coarsest level, by the widest node's span, and by the context's tokens
    (docs/specification/networks.md#features). Where blocks may be absent, a fourth one is 1 for those that
    are. With `match_words` its word matches come last (`word_features`).
    """
    level_BN = batch.levels / batch.coarsest
    span_BN = batch.span_width / batch.block_size**batch.max_level
    distance_BN = batch.distance_to_cursor / batch.context_tokens.clamp(min=1).unsqueeze(1)
    features = [level_BN, span_BN, distance_BN]
    if batch.absence != "off":
        features.append((batch.levels > batch.max_level).to(level_BN.dtype))
    features_BNF = torch.stack(features, dim=-1)
    return torch.cat([features_BNF, word_features(batch)], dim=-1) if match_words else features_BNF


def word_features(batch: Batch) -> Tensor:
    """log(1 + m) of each word match m, then its share of the largest of its kind: [B, N, 2F].

    The kinds are a context's tokens, and its gists with the absent blocks. Ours:
    docs/specification/networks.md#word-matches.
    """
    assert batch.word_matches is not None, "the batch was made without word matches"
    matches_BNF = batch.word_matches
    is_token_BN1 = (batch.levels == 0).unsqueeze(-1)
    largest_of_tokens_B1F, largest_of_gists_B1F = (
        (matches_BNF * of_kind_BN1).amax(dim=1, keepdim=True) for of_kind_BN1 in (is_token_BN1, ~is_token_BN1)
    )
    largest_BNF = torch.where(is_token_BN1, largest_of_tokens_B1F, largest_of_gists_B1F)
    return torch.cat([matches_BNF.log1p(), matches_BNF / largest_BNF.clamp(min=_LEAST_MATCH)], dim=-1)


def normalised(embeddings_BNE: Tensor) -> Tensor:
    """Embeddings [B, N, E] normalised to mean 0 and variance 1 per entry, in float32; zeros stay zero.

    Base models scale embeddings anywhere from 0.01 to 1, so eps is far below the usual 1e-5, which would
    shrink small ones.
    """
    embeddings_BNE = embeddings_BNE.float()
    return functional.layer_norm(embeddings_BNE, embeddings_BNE.shape[-1:], eps=1e-10)
