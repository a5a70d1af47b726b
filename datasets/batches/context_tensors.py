"""Input tensors of a LensNet from working contexts, of a store or of a live runtime.

Needs torch and numpy only, so that a runtime can score its contexts without a store.

Shapes: B contexts, N entries (padded), A actions (padded), d embedding width, G tail gists, F word matches, T
tokens of a document.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.legal_entries import legal_entries
from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.tree import ABSENT, Absence, TreeShape
from mctrace.context.word_matches import NUM_WORD_MATCHES, word_matches
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch
from mctrace.errors import InputError

IntArray = npt.NDArray[np.int64]


class NodeEmbeddings(Protocol):
    """Embeddings of one document's tree, as the base model sees its nodes."""

    def rows(self, level: int, index: IntArray) -> Tensor:
        """Embeddings [n, d] of the nodes `index` at `level`; level 0 is tokens."""
        ...


@dataclass(frozen=True)
class TreeEmbeddings:
    """Embeddings of a tree in memory: `levels[l]` is [num_nodes, d], tokens first."""

    levels: Sequence[Tensor]

    def rows(self, level: int, index: IntArray) -> Tensor:
        if level >= len(self.levels):
            raise InputError(f"an entry is at level {level}, the tree has levels 0 to {len(self.levels) - 1}")
        table = self.levels[level]
        if len(index) and int(index.max()) >= len(table):
            raise InputError(
                f"node (level {level}, index {int(index.max())}) is beyond the tree, "
                f"which has {len(table)} nodes at that level"
            )
        return table[torch.from_numpy(index).to(table.device)]


@dataclass(frozen=True)
class Context:
    """Working context: the map at its cursor and the document's embeddings."""

    lod_map: LODMap
    embeddings: NodeEmbeddings
    protected_tail: int = 0
    """tokens before the cursor that never collapse"""
    tokens_T: npt.NDArray[np.integer] | None = None
    """token ids of the document, at least up to the cursor; for networks that match words, which read none
    beyond it"""


LengthRule = Callable[[int], int]
"""padded length of a batch by the length of its longest context"""


def exact_length(longest: int) -> int:
    """No padding beyond the longest context."""
    return longest


def bucketed_length(longest: int) -> int:
    """The next of four lengths an octave (256, 320, 384, 448, 512, …): at most a quarter is padding.

    A compiled network is compiled once for each length, so these must be few.
    """
    step: int = max(2 ** ((longest - 1).bit_length() - 3), 1)
    return -(-longest // step) * step


def unlabelled_batch(
    contexts: Sequence[Context],
    snapshot_ids: Sequence[str] = (),
    document_ids: Sequence[str] = (),
    length_rule: LengthRule = exact_length,
    *,
    match_words: bool = False,
) -> Batch:
    """Batch of contexts without labels; all of one tree shape. With `match_words` they need token ids."""
    tree = contexts[0].lod_map.tree
    absence = absence_of(context.lod_map.tree for context in contexts)
    inputs = context_tensors(contexts, absence, length_rule, match_words=match_words)
    num_rows, num_entries = inputs["levels"].shape
    names = tuple(str(row) for row in range(num_rows))
    return Batch(
        **inputs,
        **no_labels(num_rows, num_entries),
        block_size=tree.block_size,
        max_level=tree.max_level,
        absence=absence,
        gist_positions=tree.positions_of(1),
        snapshot_ids=tuple(snapshot_ids) or names,
        document_ids=tuple(document_ids) or names,
    )


def no_labels(num_rows: int, num_entries: int) -> dict[str, Any]:
    """Label fields of a `Batch` without labels."""
    by_entry, by_action = (num_rows, num_entries), (num_rows, 0)
    return {
        "target_utilities": torch.zeros(by_entry),
        "action_mask": torch.zeros(by_entry, dtype=torch.bool),
        "regression_weights": torch.zeros(by_entry),
        "expand_action": torch.full(by_entry, -1),
        "collapse_action": torch.full(by_entry, -1),
        "action_present": torch.zeros(by_action, dtype=torch.bool),
        "action_is_expand": torch.zeros(by_action, dtype=torch.bool),
        "action_utilities": torch.zeros(by_action),
        "action_delta_nll": torch.zeros(by_action),
        "action_stderr": torch.zeros(by_action),
        "action_positions": torch.zeros(by_action, dtype=torch.int64),
        "action_inclusion": torch.ones(by_action),
    }


def context_tensors(
    contexts: Sequence[Context],
    absence: Absence,
    length_rule: LengthRule = exact_length,
    *,
    match_words: bool = False,
) -> dict[str, Any]:
    """Input fields of a `Batch`, padded to the longest context or beyond it; absent blocks stand among the
    entries.

    `absence` is that of the batch: unless it is off, drops are among the legal directions. Raises InputError
    for `match_words` with a context that has no token ids.
    """
    entries = [context.lod_map.nodes for context in contexts]
    cursors = [context.lod_map.cursor for context in contexts]
    longest = length_rule(max(map(len, entries)))
    tails = [_tail_gists(context) for context in contexts]
    legal = [legal_entries(context.lod_map, context.protected_tail) for context in contexts]
    width = tails[0][0].shape[1]
    embeddings_BNd = torch.zeros(len(contexts), longest, width)
    for row, (context, found) in enumerate(zip(contexts, entries, strict=True)):
        _gather(context.embeddings, found, embeddings_BNd[row])
    return {
        "context_embeddings": embeddings_BNd,
        "tail_gists": torch.stack([tail_Gd for tail_Gd, _ in tails]),
        "tail_mask": torch.stack([mask_G for _, mask_G in tails]),
        "entry_mask": padded([np.ones(len(found)) for found in entries], longest, torch.bool),
        "levels": padded([_levels(context.lod_map) for context in contexts], longest, torch.int64),
        "span_width": padded([found.span_width_N for found in entries], longest, torch.int64),
        "distance_to_cursor": padded(
            [found.distance_to_cursor_N(at) for found, at in zip(entries, cursors, strict=True)],
            longest,
            torch.int64,
        ),
        "context_tokens": torch.tensor([c.lod_map.cursor - c.lod_map.start for c in contexts]),
        "can_expand": padded([found.can_expand_N for found in legal], longest, torch.bool),
        "can_collapse": padded([found.can_collapse_N for found in legal], longest, torch.bool),
        "can_drop": None
        if absence == "off"
        else padded([found.can_drop_N for found in legal], longest, torch.bool),
        "word_matches": _word_matches(contexts, longest) if match_words else None,
    }


def padded(rows: Sequence[npt.NDArray[Any]], length: int, dtype: torch.dtype, fill: float = 0) -> Tensor:
    """Rows of different lengths as one tensor [B, length], padded with `fill`."""
    tensor = torch.full((len(rows), length), fill, dtype=dtype)
    for i, row in enumerate(rows):
        tensor[i, : len(row)] = torch.from_numpy(np.array(row)).to(dtype)
    return tensor


def absence_of(trees: Iterable[TreeShape]) -> Absence:
    """The setting of the first tree in which blocks may be absent; off where there is none."""
    return next((tree.absence for tree in trees if tree.absence != "off"), "off")


def _levels(lod_map: LODMap) -> IntArray:
    """Levels of a map's nodes, with absent ones one above the coarsest [N]."""
    return np.minimum(lod_map.nodes.level_N, lod_map.tree.max_level + 1)


def _word_matches(contexts: Sequence[Context], longest: int) -> Tensor:
    """Word matches [B, N, F] of the contexts' nodes."""
    matches_BNF = torch.zeros(len(contexts), longest, NUM_WORD_MATCHES)
    for row, context in enumerate(contexts):
        if context.tokens_T is None:
            raise InputError(
                "this LensNet matches words (train.network.match_words), and a context comes without token "
                "ids: give those of its document, Context(…, tokens_T=…)"
            )
        matches_NF = word_matches(context.lod_map, context.tokens_T)
        matches_BNF[row, : len(matches_NF)] = torch.from_numpy(matches_NF)
    return matches_BNF


def _gather(embeddings: NodeEmbeddings, entries: Entries, out_Nd: Tensor) -> None:
    """Writes each entry's embedding to its row, one run of entries of one level at a time.

    That of an absent block is its gist's.
    """
    level_N = np.where(entries.level_N == ABSENT, 1, entries.level_N)
    changes = np.flatnonzero(np.diff(level_N)) + 1
    for first, last in zip([0, *changes], [*changes, len(entries)], strict=True):
        out_Nd[first:last] = embeddings.rows(int(level_N[first]), entries.index_N[first:last])


def _tail_gists(context: Context) -> tuple[Tensor, Tensor]:
    """Tail gists [G, d] and a mask of those that exist [G].

    The latest complete LOD2 node before the cursor, then the last five complete LOD1, oldest first.
    """
    tree, cursor = context.lod_map.tree, context.lod_map.cursor
    mask_G = torch.zeros(NUM_TAIL_GISTS, dtype=torch.bool)
    complete = tree.num_complete_nodes(1, cursor)
    recent = min(NUM_TAIL_GISTS - 1, complete)
    rows_Rd = context.embeddings.rows(1, np.arange(complete - recent, complete)).float().cpu()
    tail_Gd = torch.zeros(NUM_TAIL_GISTS, rows_Rd.shape[1])
    tail_Gd[NUM_TAIL_GISTS - recent :], mask_G[NUM_TAIL_GISTS - recent :] = rows_Rd, True
    if tree.max_level >= 2 and (coarse := tree.num_complete_nodes(2, cursor)):
        tail_Gd[0], mask_G[0] = context.embeddings.rows(2, np.array([coarse - 1]))[0], True
    return tail_Gd, mask_G
