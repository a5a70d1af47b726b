"""Ceilings of gists: what stands for a span, optimised directly for one window, with no encoder in between.

An encoder can do no better than these vectors, so a place and number of vectors that does not pay here need
not be trained. A gist's vectors replace what the frozen model has at the span's anchors: its inputs, what
comes out of its first layers, or its keys and values in every layer. They start as its own values there.

Objectives, each on one window of a document:
    reconstruct   NLL of a span's own tokens right behind its vectors and the document's first token
    continuation  KL to the full context on the very tokens that are then scored: no encoder can know these
    others        the same on the other visible tokens behind the first span: what an encoder could know

Shapes: T tokens, N entries of the reduced context, A anchors, S read tokens, V vocabulary.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import EntryChanges, RowValues, masked_logits, recorded_outputs
from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError
from mctrace.gists.config import CeilingObjective, CeilingPlace, GistCeilingConfig
from mctrace.gists.network.anchored_spans import (
    LastAndSurprising,
    Span,
    anchor_places,
    collapsed_spans,
    kept_tokens,
    surprisal,
)
from mctrace.gists.training.collapsed_maps import collapse_share
from mctrace.gists.training.substitutability import substitution_loss, teacher_logits
from mctrace.seeding import generator_for

_INPUTS = ""
"""name of the model's inputs among the places whose rows are replaced"""
Rows = Mapping[str, Tensor]
"""values [A, width] at the anchors, by the name of the layer whose outputs they replace"""


@dataclass(frozen=True)
class Rung:
    """One cell of the ladder."""

    block_size: int
    num_vectors: int
    place: CeilingPlace
    objective: CeilingObjective


@dataclass(frozen=True)
class CeilingResult:
    """Losses of one document's window on one rung, nats per token, before (`start`) and after optimising."""

    rung: Rung
    num_gists: int
    deleted: float
    """loss of the horizon without the spans, above the full text"""
    start: float
    reached: float
    copies_deleted: float
    """loss of repeated spans without their first tokens, above the full text"""
    copies_start: float
    copies_reached: float
    objective_start: float
    objective_reached: float
    seconds: float


def rungs(config: GistCeilingConfig) -> list[Rung]:
    """All rungs of the ladder in order; blocks of fewer tokens than vectors are left out."""
    return [
        Rung(block_size, num_vectors, place, objective)
        for block_size in config.block_sizes
        for num_vectors in config.num_vectors
        for place in config.places
        for objective in config.objectives
        if num_vectors < block_size
    ]


def measure_ceilings(
    model: FrozenCausalLM, tokens_T: Tensor, document_id: str, config: GistCeilingConfig
) -> Iterator[CeilingResult]:
    """Results of every rung on the first window of a document, which has at least `window_tokens` tokens."""
    tokens_T = tokens_T[: config.window_tokens]
    for _, alike in groupby(rungs(config), lambda rung: (rung.block_size, rung.num_vectors)):
        same_window = list(alike)
        window = _Window.of(model, tokens_T, document_id, same_window[0], config)
        for rung in same_window:
            yield window.climb(rung, config)


@dataclass(frozen=True)
class _Window:
    """A context with collapsed spans, its horizon and copies, without the tokens that nothing sees."""

    model: FrozenCausalLM
    tokens_T: Tensor
    cursor: int
    horizon: int
    spans: Sequence[Span]
    full_TV: Tensor
    is_copy_T: Tensor

    @classmethod
    def of(
        cls,
        model: FrozenCausalLM,
        tokens_T: Tensor,
        document_id: str,
        rung: Rung,
        config: GistCeilingConfig,
    ) -> "_Window":
        generator = generator_for("gist ceiling", config.seed, document_id, rung.block_size)
        tree, cursor = TreeShape(rung.block_size, 1), len(tokens_T) - config.horizon
        lod_map = collapse_share(
            tree, cursor, config.share, "random", 1, generator, protected_tail=config.protected_tail
        )
        collapsed, width = np.flatnonzero(lod_map.levels > 0), rung.block_size
        copied = generator.permutation(collapsed)[: config.num_copies]
        copies = [tokens_T[block * width : (block + 1) * width] for block in copied]
        whole_T = torch.cat([tokens_T, *copies])
        is_copy_T = torch.zeros(len(whole_T), dtype=torch.bool)
        for first in range(len(tokens_T), len(whole_T), width):
            is_copy_T[first + min(config.copy_skip, width - 1) : first + width] = True
        full_TV = teacher_logits(model, model.embed(whole_T))
        anchors = LastAndSurprising(rung.num_vectors)
        spans = collapsed_spans(lod_map, surprisal(full_TV, whole_T), anchors)
        return cls(model, whole_T, cursor, config.horizon, spans, full_TV, is_copy_T)

    def climb(self, rung: Rung, config: GistCeilingConfig) -> CeilingResult:
        """Optimise the rows of one rung, and measure before and after."""
        started = time.perf_counter()
        names = replaced_layers(self.model, rung.place, config.layer)
        start = self._own_rows(names)
        found, objective_start, objective_reached = self._optimise(start, rung.objective, config)
        deleted, copies_deleted = self._above_full(None)
        first, copies_first = self._above_full(start)
        last, copies_last = self._above_full(found)
        return CeilingResult(
            rung, len(self.spans), deleted, first, last, copies_deleted, copies_first, copies_last,
            objective_start, objective_reached, round(time.perf_counter() - started, 2),
        )  # fmt: skip

    def _own_rows(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The model's own values at the anchors in the full pass."""
        anchor_A = anchor_places(self.spans).to(self.model.device)
        embeddings_Td = self.model.embed(self.tokens_T)
        position_T = torch.arange(len(self.tokens_T), device=self.model.device)
        layers = [name for name in names if name != _INPUTS]
        with torch.inference_mode(), recorded_outputs(self.model.network, layers) as outputs:
            if layers:
                self.model.logits(embeddings_Td, position_T, position_T[-1:])
            outputs[_INPUTS] = embeddings_Td
            return {name: outputs[name][anchor_A].float().clone() for name in names}

    def _optimise(
        self, start: Rows, objective: CeilingObjective, config: GistCeilingConfig
    ) -> tuple[dict[str, Tensor], float, float]:
        """Rows after `num_steps` of Adam, and the objective at the first and after the last of them.

        A step is in units of the root mean square of a place's rows, whose scales differ between layers.
        """
        scale = {name: rows.square().mean().sqrt().clamp(min=1e-6) for name, rows in start.items()}
        moved = {name: torch.zeros_like(rows).clone().requires_grad_() for name, rows in start.items()}
        optimiser = torch.optim.Adam(list(moved.values()), lr=config.learning_rate)

        def rows() -> dict[str, Tensor]:
            return {name: start[name].clone() + scale[name].clone() * moved[name] for name in start}

        first = float("nan")
        for step in range(config.num_steps):
            optimiser.zero_grad()
            loss = self._objective(rows(), objective)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
            first = loss.item() if step == 0 else first
        with torch.no_grad():
            found = rows()
            return found, first, self._objective(found, objective).item()

    def _objective(self, rows: Rows, objective: CeilingObjective) -> Tensor:
        if objective == "reconstruct":
            return self._reconstruction(rows)
        token_S = self._scored(before_cursor=objective == "others")
        logits_SV = self._logits(rows, token_S)
        targets_S = self.tokens_T.to(logits_SV.device)[token_S]
        return substitution_loss(logits_SV, self.full_TV[token_S - 1], targets_S, "kl").mean()

    def _scored(self, *, before_cursor: bool) -> Tensor:
        """The horizon, or the visible tokens before it behind the first span and a visible token."""
        if not before_cursor:
            return torch.arange(self.cursor, self.cursor + self.horizon, device=self.model.device)
        outside_T = np.ones(self.cursor, dtype=bool)
        for span in self.spans:
            outside_T[span.first : span.end] = False
        outside_T[1:] &= outside_T[:-1]
        outside_T[: self.spans[0].end] = False
        return torch.from_numpy(np.flatnonzero(outside_T)).to(self.model.device)

    def _logits(self, rows: Rows | None, token_S: Tensor) -> Tensor:
        """Logits [S, V] for the tokens `token_S`; with `rows` None the spans are deleted."""
        spans = self.spans if rows is not None else [Span(span.first, span.end) for span in self.spans]
        kept_N = torch.from_numpy(kept_tokens(spans, len(self.tokens_T))).to(self.model.device)
        anchor_A = torch.searchsorted(kept_N, anchor_places(spans).to(self.model.device))
        embeddings_Nd = self.model.embed(self.tokens_T)[kept_N].clone()
        causal_NN = torch.ones(len(kept_N), len(kept_N), dtype=torch.bool, device=kept_N.device).tril()
        # The token before may be hidden where a span is deleted: then the last visible one predicts.
        entry_S = torch.searchsorted(kept_N, token_S) - 1
        return self._pass(embeddings_Nd, kept_N, causal_NN, entry_S, anchor_A, rows or {})

    def _reconstruction(self, rows: Rows) -> Tensor:
        """Mean NLL of the spans' tokens, each span behind its own vectors and the first token alone.

        All spans stand in one context whose mask keeps them apart, each at positions of its own beginning.
        """
        place, position, group = [0], [0], [-1]
        tokens: list[int] = []
        anchors: list[int] = []
        for number, span in enumerate(self.spans):
            inside = [*span.anchors, *range(span.first, span.end)]
            anchors += range(len(place), len(place) + len(span.anchors))
            tokens += range(len(place) + len(span.anchors), len(place) + len(inside))
            place += inside
            position += range(1, len(inside) + 1)
            group += [number] * len(inside)
        device = self.model.device
        place_N, position_N, group_N, token_S, anchor_A = (
            torch.tensor(values, device=device) for values in (place, position, group, tokens, anchors)
        )
        visible_NN = (group_N[:, None] == group_N) | (group_N == -1)
        embeddings_Nd = self.model.embed(self.tokens_T)[place_N].clone()
        logits_SV = self._pass(embeddings_Nd, position_N, visible_NN.tril(), token_S - 1, anchor_A, rows)
        return cross_entropy(logits_SV.float(), self.tokens_T.to(device)[place_N[token_S]])

    def _pass(
        self,
        embeddings_Nd: Tensor,
        position_N: Tensor,
        visible_NN: Tensor,
        entry_S: Tensor,
        anchor_A: Tensor,
        rows: Rows,
    ) -> Tensor:
        by_layer = {name: RowValues(values) for name, values in rows.items() if name != _INPUTS}
        if _INPUTS in rows:
            embeddings_Nd = embeddings_Nd.index_copy(0, anchor_A, rows[_INPUTS].to(embeddings_Nd.dtype))
        changes = EntryChanges(anchor_A, by_layer)
        return masked_logits(self.model.network, embeddings_Nd, position_N, visible_NN, entry_S, changes)

    @torch.no_grad()
    def _above_full(self, rows: Rows | None) -> tuple[float, float]:
        """Loss of the horizon and of the copies above the full text; with `rows` None without the spans."""
        token_S = torch.arange(self.cursor, len(self.tokens_T), device=self.model.device)
        targets_S = self.tokens_T.to(self.model.device)[token_S]
        logits_SV = self._logits(rows, token_S)
        above_S = cross_entropy(logits_SV.float(), targets_S, reduction="none")
        above_S = above_S - cross_entropy(self.full_TV[token_S - 1].float(), targets_S, reduction="none")
        copies_S = self.is_copy_T.to(above_S.device)[token_S]
        return float(above_S[: self.horizon].mean()), float(above_S[copies_S].mean())


def replaced_layers(model: FrozenCausalLM, place: CeilingPlace, num_below: int) -> list[str]:
    """Names of the layers whose outputs a gist replaces; the empty name is the model's inputs.

    Raises ModelError for a model that has no such layers.
    """
    if place == "input":
        return [_INPUTS]
    names = [name for name, _ in model.network.base_model.named_modules()]
    wanted = (
        [f"layers.{num_below - 1}"]
        if place == "layer"
        else [name for name in names if name.endswith((".k_proj", ".v_proj"))]
    )
    if not wanted or not set(wanted) <= set(names):
        raise ModelError(
            f"a {model.network.config.model_type} model has no layers for gists at {place!r}: take "
            'gist_ceiling.places = ["input"], a smaller gist_ceiling.layer, or a model of the Llama family'
        )
    return wanted
