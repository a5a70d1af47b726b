"""The shape of a document's tree: which tokens a node stands for, and who its children are.

A document is cut into blocks of `block_size` (K) tokens. Level 0 is the tokens themselves, level 1 one gist
per block, level 2 one gist per K level-1 gists, and so on up to `max_level`. Everything else in the
project that speaks of spans, parents or costs asks this file.
"""

from dataclasses import dataclass

from mctrace.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One node of a document's tree, covering tokens [index * K**level, (index + 1) * K**level)."""

    level: int
    index: int


@dataclass(frozen=True, slots=True)
class TreeShape:
    """Shape of the tree over a document, the same for every document of a run."""

    block_size: int = 32
    """K: tokens per level-1 gist, and children per node"""
    max_level: int = 2
    """coarsest level"""

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ConfigError(f"tree.block_size must be at least 2, got {self.block_size}")
        if not 1 <= self.max_level <= 4:
            raise ConfigError(f"tree.max_level must be between 1 and 4, got {self.max_level}")

    def span_width(self, level: int) -> int:
        """Tokens that one node of `level` stands for."""
        return int(self.block_size**level)

    def blocks_per_node(self, level: int) -> int:
        """Blocks (of K tokens) that one node of `level` >= 1 covers."""
        return int(self.block_size ** (level - 1))

    def span(self, node: Node) -> tuple[int, int]:
        """The half-open range of tokens `node` covers."""
        width = self.span_width(node.level)
        return node.index * width, (node.index + 1) * width

    def children(self, node: Node) -> tuple[Node, ...]:
        first = node.index * self.block_size
        return tuple(Node(node.level - 1, first + offset) for offset in range(self.block_size))

    def num_complete_nodes(self, level: int, num_tokens: int) -> int:
        """Nodes of `level` that lie wholly inside the first `num_tokens` tokens."""
        return num_tokens // self.span_width(level)
