"""Actions on a working context: what is legal, what it costs, and what the map looks like afterwards.

Legality is structural and decides what is measured. The budget is not legality: it binds the focus
allocator's plan, otherwise a full context would have no expands to learn from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mctrace.context.errors import LegalityError
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape

ActionKind = Literal["expand", "collapse"]


@dataclass(frozen=True, slots=True)
class Action:
    """expand(node): a gist becomes its K children. collapse(node): the K siblings become their gist."""

    kind: ActionKind
    node: Node

    @property
    def entry_level(self) -> int:
        """The level of the entries the action is applied to."""
        return self.node.level if self.kind == "expand" else self.node.level - 1

    @property
    def level_after(self) -> int:
        """The level at which the node's span is shown afterwards."""
        return self.node.level - 1 if self.kind == "expand" else self.node.level

    def change_in_positions(self, tree: TreeShape) -> int:
        """Working-context positions the action adds (an expand, K - 1) or frees (a collapse, negative)."""
        return tree.block_size - 1 if self.kind == "expand" else 1 - tree.block_size


def apply_action(lod_map: LODMap, action: Action) -> LODMap:
    """The map after `action`; raises LegalityError when the node is not shown at the action's entry level."""
    if action.node.level < 1:
        raise LegalityError(f"cannot {action.kind} {action.node}: level 0 is a token")
    blocks = lod_map.blocks_of(action.node)
    if (lod_map.levels[blocks] != action.entry_level).any():
        raise LegalityError(
            f"cannot {action.kind} {action.node}: its span is not at level {action.entry_level}"
        )
    return lod_map.with_level(blocks, action.level_after)


def legal_actions(lod_map: LODMap, protected_tail: int) -> list[Action]:
    """Every legal action of a working context: expands oldest first, then collapses level by level.

    An expand needs a gist; a collapse needs all K siblings of a complete node at one level, none of them in
    the most recent `protected_tail` tokens.
    """
    return _expands(lod_map) + _collapses(lod_map, lod_map.cursor - protected_tail)


def is_legal_at(action: Action, tree: TreeShape, cursor: int, protected_tail: int) -> bool:
    """Whether an action found legal on a trajectory's map is legal for the snapshot at `cursor`."""
    end = tree.span(action.node)[1]
    return end <= (cursor if action.kind == "expand" else cursor - protected_tail)


def _expands(lod_map: LODMap) -> list[Action]:
    entries = lod_map.entries
    gists = np.flatnonzero(entries.level_N > 0)
    return [Action("expand", Node(int(entries.level_N[i]), int(entries.index_N[i]))) for i in gists]


def _collapses(lod_map: LODMap, last_end: int) -> list[Action]:
    tree = lod_map.tree
    found: list[Action] = []
    blocks = lod_map.first_block + np.arange(len(lod_map.levels))
    for level in range(1, tree.max_level + 1):
        per_node = tree.blocks_per_node(level)
        nodes, counts = np.unique(blocks[lod_map.levels == level - 1] // per_node, return_counts=True)
        whole = (counts == per_node) & ((nodes + 1) * tree.span_width(level) <= last_end)
        found += [Action("collapse", Node(level, int(index))) for index in nodes[whole]]
    return found
