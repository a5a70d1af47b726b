"""LOD maps: the level at which each block of a working context is represented, and the entries that follow.

A map is one small integer per block of K tokens. It is legal if it tiles [start, cursor) with whole nodes: a
block at level l >= 2 implies that level for all blocks of its level-l node, and a last block that the cursor
cuts can only be tokens. A complete block may also be ABSENT: represented by nothing, at no cost, while the
positions of all others keep its gap. The map determines the entries (one per position of the working
context); editing the working context means editing the map.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mctrace.context.tree import ABSENT, Node, TreeShape
from mctrace.errors import LegalityError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entries:
    """Entries of a working context in order, as parallel arrays of length N.

    `level_N` 0 for tokens; `index_N` the node's index at its level in the document's tree (for a token, its
    offset in the document); `first_token_N` and `span_width_N` in tokens.
    """

    level_N: IntArray
    index_N: IntArray
    first_token_N: IntArray
    span_width_N: IntArray

    def __len__(self) -> int:
        return len(self.level_N)

    @property
    def end_token_N(self) -> IntArray:
        """One past the last token that each entry covers."""
        return self.first_token_N + self.span_width_N

    def position_N(self, start: int) -> IntArray:
        """Position ids: a token keeps its offset from `start`, a gist sits at the centre of its span.

        An edit therefore never moves another entry's position.
        """
        centre_N = np.where(self.level_N > 0, self.span_width_N // 2, 0)
        return self.first_token_N - start + centre_N

    def distance_to_cursor_N(self, cursor: int) -> IntArray:
        """Number of tokens between each entry's end and `cursor`."""
        return cursor - self.end_token_N

    def sliced(self, positions: slice) -> "Entries":
        """The entries at `positions`, copied, so that a few of them do not keep the whole context."""
        return Entries(
            self.level_N[positions].copy(),
            self.index_N[positions].copy(),
            self.first_token_N[positions].copy(),
            self.span_width_N[positions].copy(),
        )

    def followed_by(self, *others: "Entries") -> "Entries":
        """Concatenation of these entries and those of `others`; gaps between them are allowed."""
        parts = (self, *others)
        return Entries(
            np.concatenate([part.level_N for part in parts]),
            np.concatenate([part.index_N for part in parts]),
            np.concatenate([part.first_token_N for part in parts]),
            np.concatenate([part.span_width_N for part in parts]),
        )

    def by_place(self) -> "Entries":
        """The same entries in the order of their first tokens."""
        order = np.argsort(self.first_token_N, kind="stable")
        return Entries(
            self.level_N[order], self.index_N[order], self.first_token_N[order], self.span_width_N[order]
        )

    def index_of_token(self, token: int) -> int:
        """Index of the first entry at or after `token`, which no entry may cover: N at the context's end."""
        position = int(np.searchsorted(self.first_token_N, token))
        if token > self.end_token_N[-1] or (position and self.end_token_N[position - 1] > token):
            raise AssertionError(f"token {token} is inside an entry or beyond the context")
        return position


@dataclass(frozen=True, eq=False)
class LODMap:
    """Legal LOD map over [start, cursor) of one document.

    `levels` holds one level per block, oldest first; `start` is a multiple of K, `cursor` need not be.
    Raises LegalityError when the map does not tile the span with whole nodes.
    """

    tree: TreeShape
    start: int
    cursor: int
    levels: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        problem = _why_illegal(self)
        if problem:
            raise LegalityError(f"LOD map over tokens [{self.start}, {self.cursor}): {problem}")
        levels = self.levels.astype(np.uint8)
        levels.setflags(write=False)
        object.__setattr__(self, "levels", levels)

    @classmethod
    def of_tokens(cls, tree: TreeShape, start: int, cursor: int) -> "LODMap":
        """The map with every block of [start, cursor) as tokens."""
        return cls(tree, start, cursor, np.zeros(_num_blocks(tree, start, cursor), dtype=np.uint8))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LODMap):
            return NotImplemented
        same_span = (self.tree, self.start, self.cursor) == (other.tree, other.start, other.cursor)
        return same_span and bool(np.array_equal(self.levels, other.levels))

    def __hash__(self) -> int:
        return hash((self.tree, self.start, self.cursor, self.levels.tobytes()))

    @property
    def first_block(self) -> int:
        """Index in the document of the map's first block."""
        return self.start // self.tree.block_size

    @property
    def num_entries(self) -> int:
        """Number of entries of the working context, computed without building them."""
        return sum(self._num_entries_by_level)

    @property
    def num_positions(self) -> int:
        """Positions that the working context takes: as many as entries, unless gists take several."""
        return sum(
            count * self.tree.positions_of(level) for level, count in enumerate(self._num_entries_by_level)
        )

    @property
    def _num_entries_by_level(self) -> list[int]:
        partial = (self.cursor - self.start) % self.tree.block_size
        found = []
        for level, num_blocks in enumerate(np.bincount(self.levels)[: self.tree.max_level + 1]):
            if level == 0:
                whole = int(num_blocks) - (1 if partial else 0)
                found.append(whole * self.tree.block_size + partial)
            else:
                found.append(int(num_blocks) // self.tree.blocks_per_node(level))
        return found

    @cached_property
    def entries(self) -> Entries:
        """The working context's entries, oldest first."""
        return _expand_entries(self)

    @cached_property
    def nodes(self) -> Entries:
        """Everything that is scored, oldest first: the entries, and absent blocks as entries of zero width.

        An absent block has `level_N` ABSENT and its index among the blocks.
        """
        blocks = self.first_block + np.flatnonzero(self.levels == ABSENT)
        absent = Entries(
            np.full(len(blocks), ABSENT, dtype=np.int64),
            blocks,
            blocks * self.tree.block_size,
            np.zeros(len(blocks), dtype=np.int64),
        )
        return self.entries.followed_by(absent).by_place() if len(blocks) else self.entries

    def blocks_of(self, node: Node) -> slice:
        """Slice of `levels` covered by `node` (level >= 1); raises LegalityError outside the map."""
        per_node = self.tree.blocks_per_node(node.level)
        first = node.index * per_node - self.first_block
        if first < 0 or self.tree.span(node)[1] > self.cursor:
            raise LegalityError(f"{node} is not wholly inside tokens [{self.start}, {self.cursor})")
        return slice(first, first + per_node)

    def with_level(self, blocks: slice, level: int) -> "LODMap":
        """The map with `blocks` at `level`."""
        levels = self.levels.copy()
        levels[blocks] = level
        return LODMap(self.tree, self.start, self.cursor, levels)

    def extended(self, cursor: int) -> "LODMap":
        """The map extended to a later `cursor`, with the new tail as tokens."""
        if cursor < self.cursor:
            raise LegalityError(f"cannot extend a map at {self.cursor} back to {cursor}")
        levels = np.zeros(_num_blocks(self.tree, self.start, cursor), dtype=np.uint8)
        levels[: len(self.levels)] = self.levels
        return LODMap(self.tree, self.start, cursor, levels)

    def starting_at(self, start: int) -> "LODMap":
        """The newest part of the map, from `start` on; raises LegalityError when `start` cuts a node."""
        if not self.start <= start < self.cursor:
            raise LegalityError(f"a map over [{self.start}, {self.cursor}) cannot start at {start}")
        levels = self.levels[(start - self.start) // self.tree.block_size :]
        return LODMap(self.tree, start, self.cursor, levels)


def _num_blocks(tree: TreeShape, start: int, cursor: int) -> int:
    return -(-(cursor - start) // tree.block_size)


def _why_illegal(lod_map: LODMap) -> str | None:
    tree, levels = lod_map.tree, lod_map.levels
    if lod_map.start < 0 or lod_map.start % tree.block_size:
        return f"start must be a multiple of block_size {tree.block_size} and not negative"
    if lod_map.cursor <= lod_map.start:
        return "the cursor must lie after the start"
    expected = _num_blocks(tree, lod_map.start, lod_map.cursor)
    if levels.ndim != 1 or len(levels) != expected:
        return f"needs one level for each of its {expected} blocks, got {levels.size}"
    shown = levels[levels != ABSENT]
    if not len(shown):
        return "all of its blocks are absent"
    for level in (shown.min(), shown.max()):
        if not 0 <= level <= tree.max_level:
            return f"level {level} does not exist, max_level is {tree.max_level}"
    if (lod_map.cursor - lod_map.start) % tree.block_size and levels[-1]:
        return "the cursor cuts its last block, which can then only be level 0"
    blocks = lod_map.first_block + np.arange(expected)
    for level in range(2, tree.max_level + 1):
        if not (levels == level).any():
            continue
        nodes, counts = np.unique(blocks[levels == level] // tree.blocks_per_node(level), return_counts=True)
        broken = nodes[counts != tree.blocks_per_node(level)]
        if len(broken):
            return f"node (level {level}, index {broken[0]}) is only partly at its level"
    return None


def _expand_entries(lod_map: LODMap) -> Entries:
    size = lod_map.tree.block_size
    blocks = lod_map.first_block + np.arange(len(lod_map.levels))
    levels = lod_map.levels.astype(np.int64)
    blocks, levels = blocks[levels != ABSENT], levels[levels != ABSENT]
    per_node = np.where(levels > 0, size ** np.maximum(levels - 1, 0), 1)
    heads = (levels == 0) | (blocks % per_node == 0)
    blocks, levels = blocks[heads], levels[heads]
    num_entries = np.where(levels == 0, size, 1)
    if levels[-1] == 0:
        num_entries[-1] = min(size, lod_map.cursor - int(blocks[-1]) * size)
    level_N = np.repeat(levels, num_entries)
    entry_in_block_N = np.arange(len(level_N)) - np.repeat(np.cumsum(num_entries) - num_entries, num_entries)
    first_token_N = np.repeat(blocks * size, num_entries) + entry_in_block_N
    span_width_N = size**level_N
    return Entries(level_N, first_token_N // span_width_N, first_token_N, span_width_N)
