"""Shape of a document's tree: spans and children of its nodes.

A document is divided into blocks of `block_size` (K) tokens. Level 0 are the tokens, level 1 has one gist per
block, level 2 one gist per K level-1 gists, and so on up to `max_level`. All computations of spans, parents
and costs use this module.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from mctrace.ranges import check_ranges

ABSENT = 255
"""Level code of a block that a LOD map represents by nothing: one above every level, at no position."""

Absence = Literal["off", "tokens", "gist"]
"""What an absent block is inserted as, where blocks may be absent at all."""


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One node of a document's tree, covering tokens [index * K**level, (index + 1) * K**level)."""

    level: int
    index: int

    def __reduce__(self) -> tuple[type["Node"], tuple[int, int]]:
        """Plans hold millions of nodes, and pickling frozen slots field by field takes ten times as long."""
        return Node, (self.level, self.index)


@dataclass(frozen=True, slots=True)
class TreeShape:
    """Shape of the tree over a document, the same for every document of a run."""

    section: ClassVar[str] = "tree"

    block_size: Annotated[int, Ge(2)] = 32
    """K: tokens per level-1 gist, and children per node"""
    max_level: Annotated[int, Ge(1), Le(4)] = 2
    """coarsest level"""
    absence: Absence = "off"
    """whether blocks may be left out at no cost: off; tokens: an absent block is inserted as its K tokens;
    gist: as its level-1 gist. An extension of the sources (docs/absence.md)"""

    def __post_init__(self) -> None:
        check_ranges(self)

    def span_width(self, level: int) -> int:
        """Number of tokens covered by a node of `level`."""
        return int(self.block_size**level)

    def positions_of(self, level: int) -> int:
        """Working-context positions that a node of `level` takes where it is shown."""
        return 1

    def blocks_per_node(self, level: int) -> int:
        """Number of blocks (of K tokens) covered by a node of `level` >= 1."""
        return int(self.block_size ** (level - 1))

    def span(self, node: Node) -> tuple[int, int]:
        """Half-open range of tokens covered by `node`."""
        width = self.span_width(node.level)
        return node.index * width, (node.index + 1) * width

    def children(self, node: Node) -> tuple[Node, ...]:
        first = node.index * self.block_size
        return tuple(Node(node.level - 1, first + offset) for offset in range(self.block_size))

    def num_complete_nodes(self, level: int, num_tokens: int) -> int:
        """Number of nodes of `level` that lie completely inside the first `num_tokens` tokens."""
        return num_tokens // self.span_width(level)


@dataclass(frozen=True, slots=True)
class AnchoredTree(TreeShape):
    """Tree whose gists take several positions each: those of their span's anchors (docs/gists.md)."""

    gist_positions: int = 1
    """M, at every level above 0; fewer than K, so that a collapse frees some"""

    def positions_of(self, level: int) -> int:
        return self.gist_positions if level else 1


def tree_of(block_size: int, max_level: int, absence: Absence, gist_positions: int) -> TreeShape:
    """The tree whose gists take `gist_positions` positions each."""
    if gist_positions == 1:
        return TreeShape(block_size, max_level, absence)
    return AnchoredTree(block_size, max_level, absence, gist_positions)
