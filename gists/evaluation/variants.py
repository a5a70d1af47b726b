"""Variants of a window: what stands for its collapsed spans, and the frozen model's losses behind them.

All keep the window's first token, whatever else gives way: without it the model loses its attention sink,
and a comparison of gists would measure that. Where it is part of a collapsed span it stands beside what
stands for the span.

Shapes: T tokens of the window, R tokens that are read (all from the cursor on), N entries, d embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import check_whole_attention, linear_layers, masked_logits
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.context.working_context import gather_embeddings
from mctrace.gists.network.anchored_gists import EXTRACT, KEPT, count_after
from mctrace.gists.network.anchored_spans import (
    Anchors,
    FloatArray,
    InformativeRun,
    LastAndSurprising,
    anchor_places,
    collapsed_spans,
    kept_tokens,
    visible_tokens,
)
from mctrace.gists.network.gistnet import GistNet, build_tree
from mctrace.gists.network.key_value_gistnet import KeyValueGistNet, is_key_value_folder
from mctrace.gists.network.loading import gistnet_folder, load_gistnet, place_gistnet

DELETED = "deleted"


@dataclass(frozen=True)
class ReadWindow:
    """Token ids [T]: a context up to `cursor`, then the tokens that are read; `surprisal_T` is each context
    token's NLL in the document's own pass, nats."""

    tokens_T: Tensor
    cursor: int
    surprisal_T: FloatArray


class Variant(Protocol):
    """Something that stands for the spans of a map's gists."""

    def losses(self, model: FrozenCausalLM, window: ReadWindow, lod_map: LODMap) -> Tensor:
        """NLL [R] in nats, float32, of the window's tokens after the map, each given all before it."""
        ...


@dataclass(frozen=True)
class ExtractiveGists:
    """A few of each span's own tokens, read again where they stand; without anchors, spans are deleted."""

    anchors: Anchors | None

    def losses(self, model: FrozenCausalLM, window: ReadWindow, lod_map: LODMap) -> Tensor:
        spans = collapsed_spans(lod_map, window.surprisal_T, self.anchors)
        kept_N = torch.from_numpy(kept_tokens(spans, len(window.tokens_T))).to(model.device)
        return _nll(model, model.embed(window.tokens_T)[kept_N], kept_N, window)


@dataclass(frozen=True)
class EmbeddingGists:
    """One input embedding at the centre of each span, made by a GistNet."""

    gistnet: GistNet

    def losses(self, model: FrozenCausalLM, window: ReadWindow, lod_map: LODMap) -> Tensor:
        tree = build_tree(self.gistnet, model.embed(window.tokens_T), lod_map.tree)
        entries = lod_map.extended(len(window.tokens_T)).entries
        embeddings_Nd = gather_embeddings(entries, tree)
        position_N = torch.from_numpy(entries.position_N(0)).to(model.device)
        if entries.level_N[0]:
            embeddings_Nd = torch.cat([tree[0][:1], embeddings_Nd])
            position_N = torch.cat([position_N.new_zeros(1), position_N])
        return _nll(model, embeddings_Nd, position_N, window)


@dataclass(frozen=True)
class KeyValueGists:
    """Keys and values of the document's own pass at each span's anchors, through adapters or as they are.

    One masked pass computes them and everything that reads them: a span's tokens see their span and what is
    visible before it, later tokens see its anchors.
    """

    anchors: Anchors
    gistnet: KeyValueGistNet | None

    def losses(self, model: FrozenCausalLM, window: ReadWindow, lod_map: LODMap) -> Tensor:
        num_tokens, device = len(window.tokens_T), model.device
        spans = collapsed_spans(lod_map, window.surprisal_T, self.anchors)
        changes = self.gistnet.changes(anchor_places(spans).to(device)) if self.gistnet else None
        with torch.inference_mode():
            logits_RV = masked_logits(
                model.network,
                model.embed(window.tokens_T),
                torch.arange(num_tokens, device=device),
                visible_tokens(spans, num_tokens, device),
                torch.arange(window.cursor - 1, num_tokens - 1, device=device),
                changes,
            )
            return _cross_entropy(logits_RV, window)


@dataclass(frozen=True)
class JudgedGists:
    """Gists to judge: the variants that they make, by name, and the hash of what makes them."""

    variants: Mapping[str, Variant]
    content_hash: str


def load_judged(
    source: str, model: FrozenCausalLM, tree: TreeShape, num_anchors: Sequence[int]
) -> JudgedGists:
    """The gists called `source`, on the device of `model`.

    `extract-M` is each span's most informative run of M tokens, `kept-M` the frozen model's own keys and
    values at M anchors. A key-value GistNet (a folder or a shipped name) gives one variant for each of
    `num_anchors`, any other GistNet one. Raises ModelError when there is none of that name or it does not
    fit.
    """
    if count := count_after(EXTRACT, source):
        return JudgedGists({source: ExtractiveGists(InformativeRun(count))}, source)
    if count := count_after(KEPT, source):
        check_whole_attention(model.network.config)
        return JudgedGists({source: KeyValueGists(LastAndSurprising(count), None)}, source)
    folder = gistnet_folder(source)
    if folder is not None and is_key_value_folder(folder):
        return _key_value(folder, model, tree, num_anchors)
    gistnet = load_gistnet(source)
    place_gistnet(gistnet, model, tree.block_size)
    name = "mean" if gistnet.content_hash == "mean" else "trained"
    return JudgedGists({name: EmbeddingGists(gistnet)}, gistnet.content_hash)


def _key_value(
    folder: Path, model: FrozenCausalLM, tree: TreeShape, num_anchors: Sequence[int]
) -> JudgedGists:
    check_whole_attention(model.network.config)
    gistnet = KeyValueGistNet.from_pretrained(folder).to(model.device)
    gistnet.check_fits(tree.block_size, linear_layers(model.network))
    variants = {f"trained-{m}": KeyValueGists(LastAndSurprising(m), gistnet) for m in num_anchors}
    return JudgedGists(variants, gistnet.content_hash)


@torch.inference_mode()
def _nll(model: FrozenCausalLM, embeddings_Nd: Tensor, position_N: Tensor, window: ReadWindow) -> Tensor:
    """The losses behind entries of which the last ones are the tokens that are read."""
    num_read, num_entries = len(window.tokens_T) - window.cursor, len(embeddings_Nd)
    keep_R = torch.arange(num_entries - num_read - 1, num_entries - 1, device=embeddings_Nd.device)
    return _cross_entropy(model.logits(embeddings_Nd, position_N, keep_R), window)


def _cross_entropy(logits_RV: Tensor, window: ReadWindow) -> Tensor:
    targets_R = window.tokens_T[window.cursor :].to(logits_RV.device)
    return cross_entropy(logits_RV.float(), targets_R, reduction="none")
