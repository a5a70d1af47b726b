"""Loss changes by gists on held-out documents: the frozen model's loss with gists and with deletion.

Losses are measured on the horizon after a window's LOD map, once for the full text, for deletion (the map's
gists left out, all other positions unchanged) and for every variant. All results are differences to the full
text on the same tokens, in nats per token.

The *copy test*: after the horizon, collapsed blocks are repeated, and read from the `copy_skip`-th token on,
when it is clear which block comes. Ordinary text seldom asks for what a block said; a copy asks for it all.

Shapes: T tokens of a window, H tokens of the horizon, M nodes, d embedding width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.gists.config import GistEvaluationConfig, Placement
from mctrace.gists.evaluation.variants import (
    DELETED,
    EmbeddingGists,
    ExtractiveGists,
    ReadWindow,
    Variant,
)
from mctrace.gists.network.anchored_spans import surprisal
from mctrace.gists.network.gistnet import build_tree
from mctrace.gists.training.collapsed_maps import collapse_share, with_gists
from mctrace.gists.training.substitutability import teacher_logits
from mctrace.seeding import generator_for


@dataclass(frozen=True)
class HeldOutDocument:
    """One held-out document: id, corpus, and token ids."""

    document_id: str
    corpus: str
    tokens: npt.NDArray[np.int32]


@dataclass(frozen=True)
class GistSetting:
    """The nodes replaced by gists: a share of the context's nodes of one level."""

    level: int
    placement: Placement
    share: float
    context_tokens: int


@dataclass(frozen=True)
class CopyTest:
    """Mean loss of the copies in full text, and its change; nats per token."""

    full_nll: float
    delta_nll: float


@dataclass(frozen=True)
class LossChange:
    """Mean loss in full text over the first h tokens of the horizon, by h, and its change, of one document
    and variant; nats per token."""

    document: HeldOutDocument
    setting: GistSetting | None
    """None for a single span: one level-1 gist in an otherwise full context"""
    variant: str
    full_nll: Mapping[int, float]
    delta_nll: Mapping[int, float]
    copies: CopyTest | None
    """None for a single span"""


@dataclass(frozen=True)
class Diversity:
    """Mean cosine distances of a document's gists of one level: between neighbours and over all pairs."""

    document: HeldOutDocument
    variant: str
    level: int
    neighbours: float
    pairs: float


def evaluation_settings(tree: TreeShape, config: GistEvaluationConfig) -> Iterator[GistSetting]:
    """All configured settings for which a context has enough nodes.

    Left out are shares that are no whole number of nodes, shares of more nodes than lie before the protected
    tail, and random placements without alternatives.
    """
    for level in sorted({level for level in config.levels if level <= tree.max_level}):
        context_tokens = max(config.context_tokens, 2 * tree.span_width(level))
        num_nodes = tree.num_complete_nodes(level, context_tokens)
        num_allowed = tree.num_complete_nodes(level, max(0, context_tokens - config.protected_tail))
        for placement in config.placements:
            for share in config.shares:
                num_chosen = round(share * num_nodes)
                is_whole = abs(share * num_nodes - num_chosen) < 0.25
                num_most = min(num_allowed, num_nodes - 1) - (placement == "random")
                if is_whole and 1 <= num_chosen <= num_most:
                    yield GistSetting(level, placement, share, context_tokens)


def evaluate_document(
    model: FrozenCausalLM,
    variants: Mapping[str, Variant],
    document: HeldOutDocument,
    tree: TreeShape,
    config: GistEvaluationConfig,
) -> Iterator[LossChange | Diversity]:
    """Results of all settings for which the document is long enough; all variants share seeded windows."""
    by_window: dict[int, list[GistSetting]] = {}
    for setting in evaluation_settings(tree, config):
        by_window.setdefault(setting.context_tokens, []).append(setting)
    for context_tokens, settings in by_window.items():
        for number in range(config.windows_per_document):
            generator = generator_for(
                "gist evaluation", config.seed, document.document_id, context_tokens, number
            )
            window = _window(document, context_tokens + max(config.horizons), tree, generator)
            if window is None:
                continue
            evaluation = _WindowEvaluation(model, variants, document, tree, config, window, context_tokens)
            for setting in settings:
                lod_map = collapse_share(
                    tree,
                    context_tokens,
                    setting.share,
                    setting.placement,
                    setting.level,
                    generator,
                    protected_tail=config.protected_tail,
                )
                yield from evaluation.measure(setting, lod_map, generator)
            if context_tokens == config.context_tokens:
                yield from evaluation.measure_spans(generator)
                yield from evaluation.diversity()


class _WindowEvaluation:
    """One window, with all of its variants."""

    def __init__(
        self,
        model: FrozenCausalLM,
        variants: Mapping[str, Variant],
        document: HeldOutDocument,
        tree: TreeShape,
        config: GistEvaluationConfig,
        tokens_T: Tensor,
        context_tokens: int,
    ) -> None:
        self._model, self._variants, self._document = model, variants, document
        self._tree, self._config, self._cursor = tree, config, context_tokens
        self._tokens_T = tokens_T

    def measure(
        self, setting: GistSetting, lod_map: LODMap, generator: np.random.Generator
    ) -> Iterator[LossChange]:
        """Results of one map: the horizon, then copies of some collapsed blocks."""
        window, full_R = self._read(self._with_copies(lod_map, generator))
        for name, variant in {DELETED: ExtractiveGists(None), **self._variants}.items():
            losses_R = variant.losses(self._model, window, lod_map)
            yield self._loss_change(setting, name, losses_R, full_R)

    def measure_spans(self, generator: np.random.Generator) -> Iterator[LossChange]:
        """Results of single blocks as gists in an otherwise full context."""
        num_blocks = (self._cursor - self._config.protected_tail) // self._tree.block_size
        blocks = generator.permutation(num_blocks)[: self._config.spans_per_document]
        if not len(blocks):
            return
        window, full_H = self._read(self._tokens_T)
        for block in blocks:
            lod_map = with_gists(self._tree, self._cursor, 1, np.array([block]))
            for name, variant in self._variants.items():
                losses_H = variant.losses(self._model, window, lod_map)
                yield self._loss_change(None, name, losses_H, full_H)

    def diversity(self) -> Iterator[Diversity]:
        """Distances between the gists of the variants that are embeddings."""
        token_embeddings_Td = self._model.embed(self._tokens_T)
        for name, variant in self._variants.items():
            if not isinstance(variant, EmbeddingGists):
                continue
            embeddings = build_tree(variant.gistnet, token_embeddings_Td, self._tree)
            for level, gists_Md in enumerate(embeddings[1:], start=1):
                if len(gists_Md) > 1:
                    similarity_MM = functional.normalize(gists_Md.float(), dim=-1)
                    similarity_MM = similarity_MM @ similarity_MM.T
                    num = len(gists_Md)
                    pairs = (float(similarity_MM.sum()) - num) / (num * (num - 1))
                    neighbours = float(similarity_MM.diagonal(1).mean())
                    yield Diversity(self._document, name, level, 1 - neighbours, 1 - pairs)

    def _read(self, tokens_T: Tensor) -> tuple[ReadWindow, Tensor]:
        """The window of these tokens, and the losses [R] of those that are read in full text."""
        surprisal_T = surprisal(teacher_logits(self._model, self._model.embed(tokens_T)), tokens_T)
        window = ReadWindow(tokens_T, self._cursor, surprisal_T[: self._cursor])
        return window, torch.from_numpy(surprisal_T[self._cursor :]).to(self._model.device)

    def _with_copies(self, lod_map: LODMap, generator: np.random.Generator) -> Tensor:
        """The window's tokens, then copies of `num_copies` random collapsed blocks."""
        width = self._tree.block_size
        collapsed = np.flatnonzero(lod_map.levels > 0)
        copied = generator.permutation(collapsed)[: self._config.num_copies]
        tokens_T = self._tokens_T
        return torch.cat([tokens_T, *(tokens_T[block * width : (block + 1) * width] for block in copied)])

    def _loss_change(
        self, setting: GistSetting | None, variant: str, losses_R: Tensor, full_R: Tensor
    ) -> LossChange:
        horizon, width = max(self._config.horizons), self._tree.block_size
        change_R = losses_R - full_R
        is_copy_R = torch.zeros(len(losses_R), dtype=torch.bool)
        for first in range(horizon, len(losses_R), width):
            is_copy_R[first + min(self._config.copy_skip, width - 1) : first + width] = True
        copies = is_copy_R.to(losses_R.device)
        return LossChange(
            self._document,
            setting,
            variant,
            {h: float(full_R[:h].mean()) for h in self._config.horizons},
            {h: float(change_R[:h].mean()) for h in self._config.horizons},
            CopyTest(float(full_R[copies].mean()), float(change_R[copies].mean())) if copies.any() else None,
        )


def _window(
    document: HeldOutDocument, num_tokens: int, tree: TreeShape, generator: np.random.Generator
) -> Tensor | None:
    num_places = (len(document.tokens) - num_tokens) // tree.block_size + 1
    if num_places < 1:
        return None
    first = int(generator.integers(num_places)) * tree.block_size
    return torch.from_numpy(document.tokens[first : first + num_tokens].astype(np.int64))
