"""Loss changes by gists on held-out documents: the frozen model's loss with gists and with deletion.

Losses are measured on the horizon after a window's LOD map, once for each variant: `full` (every token),
`deleted` (the map's gists left out, all other positions unchanged) and every GistNet. All results are
differences to `full` on the same tokens, in nats per token.

Shapes: T tokens of a window, H tokens of the horizon, M nodes, d embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mctrace.base_model.protocol import FrozenModel
from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.tree import TreeShape
from mctrace.context.working_context import gather_embeddings
from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.network.gistnet import GistNet, build_tree
from mctrace.gists.training.collapsed_maps import Placement, collapse_share, with_gists
from mctrace.seeding import generator_for

DELETED = "deleted"
PLACEMENTS: tuple[Placement, ...] = ("oldest", "random")


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
class LossChange:
    """Change of the mean loss over the first h tokens of the horizon, by h, of one document and variant."""

    document: HeldOutDocument
    setting: GistSetting | None
    """None for a single span: one level-1 gist in an otherwise full context"""
    variant: str
    delta_nll: Mapping[int, float]


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
    for level in range(1, min(tree.max_level, 2) + 1):
        context_tokens = max(config.context_tokens, 2 * tree.span_width(level))
        num_nodes = tree.num_complete_nodes(level, context_tokens)
        num_allowed = tree.num_complete_nodes(level, max(0, context_tokens - config.protected_tail))
        for placement in PLACEMENTS:
            for share in config.shares:
                num_chosen = round(share * num_nodes)
                is_whole = abs(share * num_nodes - num_chosen) < 0.25
                num_most = min(num_allowed, num_nodes - 1) - (placement == "random")
                if is_whole and 1 <= num_chosen <= num_most:
                    yield GistSetting(level, placement, share, context_tokens)


def evaluate_document(
    model: FrozenModel,
    gistnets: Mapping[str, GistNet],
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
            evaluation = _WindowEvaluation(model, gistnets, document, tree, config, window, context_tokens)
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
                yield from evaluation.measure(setting, lod_map)
            if context_tokens == config.context_tokens:
                yield from evaluation.measure_spans(generator)
                yield from evaluation.diversity()


class _WindowEvaluation:
    """One window with its full-text loss and all variants' embeddings, computed once for all settings."""

    def __init__(
        self,
        model: FrozenModel,
        gistnets: Mapping[str, GistNet],
        document: HeldOutDocument,
        tree: TreeShape,
        config: GistEvaluationConfig,
        tokens_T: Tensor,
        context_tokens: int,
    ) -> None:
        self._model, self._document, self._tree, self._config = model, document, tree, config
        self._tokens_T, self._cursor = tokens_T, context_tokens
        token_embeddings_Td = model.embed(tokens_T)
        self._embeddings = {
            name: build_tree(gistnet, token_embeddings_Td, tree) for name, gistnet in gistnets.items()
        }
        self._any_embeddings = [token_embeddings_Td]
        self._full_H = self._nll(LODMap.of_tokens(tree, 0, context_tokens), self._any_embeddings)

    def measure(self, setting: GistSetting, lod_map: LODMap) -> Iterator[LossChange]:
        deleted_H = self._nll(lod_map, self._any_embeddings, without_gists=True)
        yield self._loss_change(setting, DELETED, deleted_H)
        for name, embeddings in self._embeddings.items():
            yield self._loss_change(setting, name, self._nll(lod_map, embeddings))

    def measure_spans(self, generator: np.random.Generator) -> Iterator[LossChange]:
        """Results of single blocks as gists in an otherwise full context."""
        num_blocks = (self._cursor - self._config.protected_tail) // self._tree.block_size
        for block in generator.permutation(num_blocks)[: self._config.spans_per_document]:
            lod_map = with_gists(self._tree, self._cursor, 1, np.array([block]))
            for name, embeddings in self._embeddings.items():
                yield self._loss_change(None, name, self._nll(lod_map, embeddings))

    def diversity(self) -> Iterator[Diversity]:
        for name, embeddings in self._embeddings.items():
            for level, gists_Md in enumerate(embeddings[1:], start=1):
                if len(gists_Md) > 1:
                    similarity_MM = functional.normalize(gists_Md.float(), dim=-1)
                    similarity_MM = similarity_MM @ similarity_MM.T
                    num = len(gists_Md)
                    pairs = (float(similarity_MM.sum()) - num) / (num * (num - 1))
                    neighbours = float(similarity_MM.diagonal(1).mean())
                    yield Diversity(self._document, name, level, 1 - neighbours, 1 - pairs)

    @torch.inference_mode()
    def _nll(self, lod_map: LODMap, embeddings: Sequence[Tensor], *, without_gists: bool = False) -> Tensor:
        """Loss [H] of the horizon's tokens after `lod_map`, nats per token, in float32."""
        horizon = max(self._config.horizons)
        entries = lod_map.extended(self._cursor + horizon).entries
        if without_gists:
            entries = _tokens_only(entries)
        embeddings_ND = gather_embeddings(entries, embeddings)
        position_N = torch.from_numpy(entries.position_N(0)).to(embeddings_ND.device)
        keep_H = torch.arange(len(entries) - horizon - 1, len(entries) - 1, device=embeddings_ND.device)
        logits_HV = self._model.logits(embeddings_ND, position_N, keep_H)
        targets_H = self._tokens_T[self._cursor : self._cursor + horizon].to(logits_HV.device)
        return functional.cross_entropy(logits_HV.float(), targets_H, reduction="none")

    def _loss_change(self, setting: GistSetting | None, variant: str, nll_H: Tensor) -> LossChange:
        change_H = nll_H - self._full_H
        by_horizon = {h: float(change_H[:h].mean()) for h in self._config.horizons}
        return LossChange(self._document, setting, variant, by_horizon)


def _tokens_only(entries: Entries) -> Entries:
    kept = np.flatnonzero(entries.level_N == 0)
    return Entries(
        entries.level_N[kept], entries.index_N[kept], entries.first_token_N[kept], entries.span_width_N[kept]
    )


def _window(
    document: HeldOutDocument, num_tokens: int, tree: TreeShape, generator: np.random.Generator
) -> Tensor | None:
    num_places = (len(document.tokens) - num_tokens) // tree.block_size + 1
    if num_places < 1:
        return None
    first = int(generator.integers(num_places)) * tree.block_size
    return torch.from_numpy(document.tokens[first : first + num_tokens].astype(np.int64))
