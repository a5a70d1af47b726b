"""Reading of a context that stays as it was read: keys and values of its text, and of its anchors.

A text is read once, in full, up to the first cursor. From there on tokens see what the LOD map shows: tokens
as they were read, of each gist the keys and values at its anchors (`gists/network/anchored_gists.py`), and
always the context's first token. Anchors are chosen by the loss of each token in the text's own pass, so they
do not depend on the map. With adapters a span is read again, with the adapters acting at its anchors alone,
and sees what was seen when it was read first.

Shapes: N entries, C entries of the cache that are seen, T tokens of the text, L tokens that a row runs, B
rows of a pass, M anchors of a node, A anchors of a pass, H tokens whose loss is read, k key-value heads, e
head width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.base_model.shared_attention import AttentionPlan, KeyValues, PickedSegment, SharedSegment
from mctrace.collect.measuring.evaluator import Baseline, Batching, check_fits, if_it_fits, out_of_memory
from mctrace.collect.planning.edits import Edit, shown_gists
from mctrace.collect.planning.kept_passes import reading_work
from mctrace.context.lod_map import Entries, IntArray
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node
from mctrace.gists.network.anchored_gists import KeptGists


@dataclass(frozen=True)
class KeptReading:
    """A trajectory's text as it was read, and its losses under the map.

    The baseline's cache holds one entry per token of the text, in order, then what adapters made of anchors.
    """

    trajectory: Trajectory
    baseline: Baseline
    cached: Mapping[Node, IntArray]
    """where the cache has each node's anchors [M]"""
    work: Work

    def seen(self, entries: Entries) -> IntArray:
        """Places in the cache [C] of what stands for `entries`, in order."""
        return places_in_cache(entries, self.cached, self.trajectory.head.start)


def read_kept(
    model: EvaluatedModel,
    gists: KeptGists,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    batching: Batching,
) -> KeptReading:
    """Read the text in full, then its tokens from the first cursor on under the map; keep what `edits` show.

    Raises ModelError when the text spans more positions than the model has, or does not fit into memory.
    """
    check_fits(model, trajectory)
    return _Reader(model, gists, document, trajectory, batching).read(edits)


def places_in_cache(entries: Entries, cached: Mapping[Node, IntArray], start: int) -> IntArray:
    """Places in the cache [C] of the entries' tokens and anchors, and of the context's first token."""
    is_token_N = entries.level_N == 0
    tokens_C = entries.first_token_N[is_token_N] - start
    gists = zip(entries.level_N[~is_token_N].tolist(), entries.index_N[~is_token_N].tolist(), strict=True)
    return np.union1d(0, np.concatenate([tokens_C, *(cached[Node(*gist)] for gist in gists)]))


def seeing(cache: KeyValues, seen_C: IntArray, record: KeyValues | None = None) -> AttentionPlan:
    """A row that sees these places of the cache, and its own tokens behind them."""
    device = next(iter(cache.layers.values()))[0].device
    picked = PickedSegment(torch.from_numpy(seen_C).to(device, non_blocking=True))
    return AttentionPlan(cache, picked, own_index=len(seen_C), later_index=len(seen_C), record=record)


def row_nll(
    model: EvaluatedModel,
    document: DocumentTree,
    trajectory: Trajectory,
    tokens: slice,
    plans: Sequence[AttentionPlan],
) -> Tensor:
    """NLL [B, L] of the tokens after each of `tokens`, one row per plan."""
    rows, start = (len(plans), -1), trajectory.head.start
    embeddings_Ld = document.embeddings[0][tokens]
    position_L = torch.arange(tokens.start - start, tokens.stop - start, device=embeddings_Ld.device)
    return model.token_nll(
        embeddings_Ld.expand(*rows, -1),
        position_L.expand(*rows),
        document.tokens_T[tokens.start + 1 : tokens.stop + 1],
        plans,
    )


@dataclass(frozen=True)
class _Reader:
    """What `read_kept` reads, and with what."""

    model: EvaluatedModel
    gists: KeptGists
    document: DocumentTree
    trajectory: Trajectory
    batching: Batching

    @torch.inference_mode()
    def read(self, edits: Sequence[Edit]) -> KeptReading:
        trajectory, start = self.trajectory, self.trajectory.head.start
        whole, under_map = KeyValues(), KeyValues()
        surprisal_T = self._losses(slice(start, trajectory.end - 1), AttentionPlan(record=whole))
        num_head = trajectory.first_cursor - start
        anchors = self._anchors(edits, torch.cat([surprisal_T.new_zeros(1), surprisal_T]))
        head = {node: found_M for node, found_M in anchors.items() if self._end(node) <= num_head}
        cache = KeyValues({i: _first(both, num_head) for i, both in whole.layers.items()})
        made = self._adapted(
            cache, head, lambda node: SharedSegment(0, self._end(node) - self._width(node), 0)
        )

        # Anchors that adapters made stand behind the head's tokens, and later behind all tokens.
        seen_C = self._shown({**head, **_numbered(made, num_head)}, trajectory.first_cursor)
        tail = slice(trajectory.first_cursor, trajectory.end - 1)
        shown = seeing(_joined([cache, made.cache]), seen_C, under_map)
        nll_L = self._losses(tail, shown) if tail.start < tail.stop else surprisal_T.new_zeros(0)
        tokens = _joined([cache, under_map])
        num_tokens = trajectory.end - 1 - start
        later = {node: found_M for node, found_M in anchors.items() if node not in head}
        of_tail = self._adapted(
            _joined([tokens, made.cache]),
            later,
            lambda node: self._before(node, {**head, **_numbered(made, num_tokens)}),
        )
        cached = {
            **anchors,
            **_numbered(made, num_tokens),
            **_numbered(of_tail, num_tokens + made.num_entries),
        }
        nll_H = torch.cat([surprisal_T[num_head - 1 : num_head], nll_L])
        everything = _joined([tokens, made.cache, of_tail.cache])
        return KeptReading(
            trajectory,
            Baseline(nll_H, everything),
            cached,
            reading_work(trajectory, made.num_tokens + of_tail.num_tokens),
        )

    def _losses(self, tokens: slice, plan: AttentionPlan) -> Tensor:
        run = partial(row_nll, self.model, self.document, self.trajectory, tokens, [plan])
        nll_1L = if_it_fits(run)
        if nll_1L is None:
            raise out_of_memory("a whole context", tokens.stop - tokens.start)
        return nll_1L[0]

    def _anchors(self, edits: Sequence[Edit], surprisal_T: Tensor) -> dict[Node, IntArray]:
        """Anchors [M] of every node that the map or an edit shows, counted from the context's start."""
        surprisal, found = surprisal_T.cpu().numpy(), {}
        for node in shown_gists(self.trajectory, edits):
            end = self._end(node)
            found[node] = np.array(
                self.gists.anchors(surprisal, end - self._width(node), end), dtype=np.int64
            )
        return found

    def _width(self, node: Node) -> int:
        return self.trajectory.head.tree.span_width(node.level)

    def _end(self, node: Node) -> int:
        """One past the node's last token, counted from the context's start."""
        return self.trajectory.head.tree.span(node)[1] - self.trajectory.head.start

    def _shown(self, cached: Mapping[Node, IntArray], token: int) -> IntArray:
        """What the map shows of the tokens before `token`, by place in the cache [C]."""
        entries = self.trajectory.context.entries
        shown = entries.sliced(slice(0, entries.index_of_token(token)))
        return places_in_cache(shown, cached, self.trajectory.head.start)

    def _before(self, node: Node, cached: Mapping[Node, IntArray]) -> SharedSegment | PickedSegment:
        first = self.trajectory.head.tree.span(node)[0]
        if first == self.trajectory.head.start:
            return SharedSegment(0, 0, 0)
        seen_C = self._shown(cached, first)
        return PickedSegment(torch.from_numpy(seen_C).to(self.document.embeddings[0].device))

    def _adapted(
        self,
        cache: KeyValues,
        anchors: Mapping[Node, IntArray],
        seen: Callable[[Node], SharedSegment | PickedSegment],
    ) -> "_Made":
        """Keys and values that adapters make of anchors: each span is read again and sees what `seen` says.

        Without adapters nothing is made: anchors are what was read.
        """
        if self.gists.adapters is None:
            return _Made()
        made = list[_Made]()
        for level in sorted({node.level for node in anchors}):
            left = [node for node in sorted(anchors) if node.level == level]
            width = self._width(left[0])
            per_pass = max(1, self.batching.tokens // width)
            while left:
                rows = left[:per_pass]
                found = if_it_fits(partial(self._read_again, cache, rows, anchors, seen))
                if found is None and len(rows) == 1:
                    raise out_of_memory("a single span", width)
                if found is None:
                    per_pass = len(rows) // 2
                else:
                    made.append(found)
                    left = left[per_pass:]
        return _Made.joined(made)

    def _read_again(
        self,
        cache: KeyValues,
        nodes: Sequence[Node],
        anchors: Mapping[Node, IntArray],
        seen: Callable[[Node], SharedSegment | PickedSegment],
    ) -> "_Made":
        """Spans of one level in one pass, a row each."""
        assert self.gists.adapters is not None
        width, start = self._width(nodes[0]), self.trajectory.head.start
        first_B = np.array([self._end(node) - width for node in nodes])
        device = self.document.embeddings[0].device
        position_BL = torch.from_numpy(first_B[:, None] + np.arange(width)).to(device)
        place_BM = np.stack([anchors[node] for node in nodes]) - first_B[:, None]
        entry_A = torch.from_numpy((place_BM + width * np.arange(len(nodes))[:, None]).ravel()).to(device)
        plans = []
        for node in nodes:
            before = seen(node)
            index = len(before.entry_n) if isinstance(before, PickedSegment) else before.end
            plans.append(AttentionPlan(cache, before, own_index=index, later_index=index))
        found = self.model.key_values(
            self.document.embeddings[0][position_BL + start],
            position_BL,
            plans,
            self.gists.adapters.changes(entry_A),
        )
        picked = {i: _rows(both, entry_A) for i, both in found.layers.items()}
        numbers_BM = np.arange(place_BM.size).reshape(place_BM.shape)
        places = dict(zip(nodes, numbers_BM, strict=True))
        return _Made(KeyValues(picked), places, place_BM.size, position_BL.numel())


@dataclass(frozen=True)
class _Made:
    """Keys and values of `num_entries` anchors that adapters made, where each node's are, and tokens run."""

    cache: KeyValues = field(default_factory=KeyValues)
    places: Mapping[Node, IntArray] = field(default_factory=dict)
    num_entries: int = 0
    num_tokens: int = 0

    @classmethod
    def joined(cls, parts: Sequence["_Made"]) -> "_Made":
        places: dict[Node, IntArray] = {}
        num_entries = 0
        for part in parts:
            places |= _numbered(part, num_entries)
            num_entries += part.num_entries
        num_tokens = sum(part.num_tokens for part in parts)
        return cls(_joined([part.cache for part in parts]), places, num_entries, num_tokens)


def _numbered(made: _Made, first: int) -> dict[Node, IntArray]:
    """Places of the nodes' anchors in a cache in which these stand from `first` on."""
    return {node: place_M + first for node, place_M in made.places.items()}


def _first(both: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    return both[0][:, :, :count], both[1][:, :, :count]


def _rows(both: tuple[Tensor, Tensor], entry_A: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [1, k, A, e] of some entries of a batch [B, k, L, e], counted row by row."""
    keys, values = (
        part.transpose(1, 2).flatten(0, 1)[entry_A.to(part.device)].transpose(0, 1)[None] for part in both
    )
    return keys, values


def _joined(caches: Sequence[KeyValues]) -> KeyValues:
    """The caches' entries behind each other."""
    some = [cache.layers for cache in caches if cache.layers]
    if len(some) <= 1:
        return KeyValues(some[0] if some else {})
    return KeyValues(
        {
            i: (torch.cat([one[i][0] for one in some], dim=2), torch.cat([one[i][1] for one in some], dim=2))
            for i in some[0]
        }
    )
