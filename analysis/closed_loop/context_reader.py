"""Incremental reader of an edited context: the loss of what follows, on cached keys and values.

An edit moves no other entry's position, so the keys and values of everything before the first edited entry
stay valid; only the rest runs again. A read equals a plain forward pass over the whole context
(`collect/measuring/naive_evaluator.py`), and an answer the tokens that such passes find likeliest one by one,
as the tests check.

Shapes: N entries, L entries that run, H tokens whose loss is read.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.base_model.shared_attention import AttentionMass, AttentionPlan, KeyValues, SharedSegment
from mctrace.collect.measuring.evaluator import Baseline
from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.working_context import gather_embeddings


class ContextReader:
    """Reads one document and caches the keys and values of the context it read last.

    One reader serves every policy on a document: what one of them has shown is not read again for another.
    """

    def __init__(self, model: EvaluatedModel, document: DocumentTree) -> None:
        self.model, self.document = model, document
        self.num_entries_run = 0
        """entries run through the model so far"""
        self._start: int | None = None
        self._entries: Entries | None = None
        self._cache = KeyValues()
        self._nll: dict[_Asked, Tensor] = {}
        self._answers: dict[_Asked, list[int]] = {}

    @cached_property
    def beside(self) -> "ContextReader":
        """A second reader of the document, for a policy that reads contexts of its own."""
        return ContextReader(self.model, self.document)

    def nll(self, lod_map: LODMap, horizon: int) -> Tensor:
        """Per-token NLL [H] of `read`, from memory where the same map was asked for before."""
        asked = _asked(lod_map, horizon)
        if asked not in self._nll:
            self._nll[asked] = self.read(lod_map, horizon).nll_H
        return self._nll[asked]

    @torch.inference_mode()
    def read(self, lod_map: LODMap, horizon: int, *, attention_mass: bool = False) -> Baseline:
        """Per-token NLL [H] in nats of the `horizon` tokens after the map's cursor, and the cache; as
        `measure_baseline` gives them."""
        entries = lod_map.extended(lod_map.cursor + horizon).entries
        first_read, last_run = entries.index_of_token(lod_map.cursor) - 1, len(entries) - 1
        crop = min(self._num_kept(entries, lod_map.start), first_read)
        runs, record = entries.sliced(slice(crop, last_run)), KeyValues()
        mass = AttentionMass(first_read) if attention_mass else None
        plan = AttentionPlan(
            self._cache,
            prefix=SharedSegment(0, crop, 0),
            num_before=len(runs),
            own_index=crop,
            later_index=last_run,
            record=record,
            mass=mass,
        )
        embeddings_Ld = gather_embeddings(runs, self.document.embeddings)
        position_L = torch.from_numpy(runs.position_N(lod_map.start)).to(embeddings_Ld.device)
        targets_H = self.document.tokens_T[lod_map.cursor : lod_map.cursor + horizon]
        nll_1H = self.model.token_nll(embeddings_Ld[None], position_L[None], targets_H, [plan])
        self.num_entries_run += len(runs)
        self._start, self._entries = lod_map.start, entries.sliced(slice(0, last_run))
        self._cache = _followed_by(self._cache, crop, record)
        return Baseline(nll_1H[0], self._cache, mass.mean_N() if mass else None)

    def answer(self, lod_map: LODMap, num_tokens: int) -> list[int]:
        """The `num_tokens` token ids that greedily follow the map's cursor; each attends to those before.

        From memory where the same was asked before.
        """
        asked = _asked(lod_map, num_tokens)
        if asked not in self._answers:
            self._answers[asked] = self._answer(lod_map, num_tokens)
        return self._answers[asked]

    @torch.inference_mode()
    def _answer(self, lod_map: LODMap, num_tokens: int) -> list[int]:
        entries, start = lod_map.entries, lod_map.start
        crop = min(self._num_kept(entries, start), len(entries) - 1)
        runs = entries.sliced(slice(crop, None))
        embeddings_Ld = gather_embeddings(runs, self.document.embeddings)
        position_L = torch.from_numpy(runs.position_N(start)).to(embeddings_Ld.device)
        cache, answer = self._cache, list[int]()
        for number in range(num_tokens):
            record = KeyValues()
            plan = AttentionPlan(
                cache, prefix=SharedSegment(0, crop, 0), num_before=len(embeddings_Ld), own_index=crop,
                later_index=crop + len(embeddings_Ld), record=record,
            )  # fmt: skip
            logits_V = self.model.next_logits(embeddings_Ld, position_L, plan)
            self.num_entries_run += len(embeddings_Ld)
            cache = _followed_by(cache, crop, record)
            if not number:
                self._start, self._entries, self._cache = start, entries, cache
            answer.append(int(logits_V.argmax()))
            crop += len(embeddings_Ld)
            embeddings_Ld = self.model.embed(torch.tensor(answer[-1:]))
            position_L = position_L[-1:] + 1
        return answer

    def _num_kept(self, entries: Entries, start: int) -> int:
        """Number of leading entries that the last context shares, at the same positions."""
        if self._entries is None or self._start != start:
            return 0
        num_both = min(len(entries), len(self._entries))
        differs = (entries.level_N[:num_both] != self._entries.level_N[:num_both]) | (
            entries.index_N[:num_both] != self._entries.index_N[:num_both]
        )
        return int(np.argmax(differs)) if differs.any() else num_both


_Asked = tuple[int, int, bytes, int]
"""a map's start, cursor and levels, and how many tokens follow"""


def _asked(lod_map: LODMap, num_tokens: int) -> _Asked:
    return lod_map.start, lod_map.cursor, lod_map.levels.tobytes(), num_tokens


def _followed_by(kept: KeyValues, crop: int, new: KeyValues) -> KeyValues:
    """The first `crop` entries of `kept`, then `new`."""
    if not crop:
        return new
    layers = {}
    for layer, (keys, values) in new.layers.items():
        kept_keys, kept_values = kept.layers[layer]
        layers[layer] = (
            torch.cat([kept_keys[:, :, :crop], keys], dim=2),
            torch.cat([kept_values[:, :, :crop], values], dim=2),
        )
    return KeyValues(layers)
