"""Actions on a working context: legality, cost in positions, and the resulting LOD map.

Legality is structural and determines what is measured. The budget is not part of it: it constrains the focus
allocator only, otherwise a full context would have no expands to learn from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import IntArray, LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError

ActionKind = Literal["expand", "collapse"]


@dataclass(frozen=True, slots=True)
class Action:
    """expand(node): a gist becomes its K children. collapse(node): the K siblings become their gist."""

    kind: ActionKind
    node: Node

    @property
    def entry_level(self) -> int:
        """Level of the entries the action applies to."""
        return self.node.level if self.kind == "expand" else self.node.level - 1

    @property
    def level_after(self) -> int:
        """Level at which the node's span is represented afterwards."""
        return self.node.level - 1 if self.kind == "expand" else self.node.level

    def change_in_positions(self, tree: TreeShape) -> int:
        """Working-context positions that the action adds: K - 1 for an expand, 1 - K for a collapse."""
        return tree.block_size - 1 if self.kind == "expand" else 1 - tree.block_size


@dataclass(frozen=True, eq=False)
class ActionArrays:
    """Actions as parallel arrays of length A, for maps of a million blocks. Nodes: `level_A`, `index_A`."""

    is_expand_A: npt.NDArray[np.bool_]
    level_A: IntArray
    index_A: IntArray

    def __len__(self) -> int:
        return len(self.level_A)

    def action(self, i: int) -> Action:
        """The action at position `i`."""
        kind: ActionKind = "expand" if self.is_expand_A[i] else "collapse"
        return Action(kind, Node(int(self.level_A[i]), int(self.index_A[i])))


def apply_action(lod_map: LODMap, action: Action) -> LODMap:
    """The map after `action`; raises LegalityError unless the node's span is at the action's entry level."""
    return apply_actions(lod_map, [action])


def apply_actions(lod_map: LODMap, actions: Sequence[Action]) -> LODMap:
    """The map after all `actions` in order; raises LegalityError at the first illegal one."""
    levels = lod_map.levels.copy()
    for action in actions:
        if action.node.level < 1:
            raise LegalityError(f"cannot {action.kind} {action.node}: level 0 is a token")
        blocks = lod_map.blocks_of(action.node)
        if (levels[blocks] != action.entry_level).any():
            raise LegalityError(
                f"cannot {action.kind} {action.node}: its span is not at level {action.entry_level}"
            )
        levels[blocks] = action.level_after
    return LODMap(lod_map.tree, lod_map.start, lod_map.cursor, levels)


def legal_actions(lod_map: LODMap, protected_tail: int) -> list[Action]:
    """Every legal action of a working context: expands oldest first, then collapses level by level."""
    arrays = legal_action_arrays(lod_map, protected_tail)
    return [arrays.action(i) for i in range(len(arrays))]


def legal_action_arrays(lod_map: LODMap, protected_tail: int) -> ActionArrays:
    """Legal actions as arrays, in the order of `legal_actions`.

    An expand needs a gist. A collapse needs all K siblings of a complete node at one level, none of them in
    the most recent `protected_tail` tokens.
    """
    expands = _joined(_expands(lod_map))
    # By position, whatever the level. Part ids hash measured actions in this order, so it must not change.
    by_position = np.argsort(expands[1] * lod_map.tree.block_size ** expands[0], kind="stable")
    collapses = _joined(_collapses(lod_map, lod_map.cursor - protected_tail))
    return ActionArrays(
        np.arange(len(by_position) + len(collapses[0])) < len(by_position),
        np.concatenate([expands[0][by_position], collapses[0]]),
        np.concatenate([expands[1][by_position], collapses[1]]),
    )


def is_legal_at(action: Action, tree: TreeShape, cursor: int, protected_tail: int) -> bool:
    """True if an action that is legal on a trajectory's map is legal for the snapshot at `cursor`."""
    end = tree.span(action.node)[1]
    return end <= (cursor if action.kind == "expand" else cursor - protected_tail)


_LevelNodes = tuple[int, IntArray]
"""a level and the indices of some of its nodes, ascending"""


def _joined(groups: Iterator[_LevelNodes]) -> tuple[IntArray, IntArray]:
    """Levels and indices of all nodes, in order."""
    levels, indices = zip(*groups, strict=True)
    return np.repeat(levels, [len(index_a) for index_a in indices]), np.concatenate(indices)


def _expands(lod_map: LODMap) -> Iterator[_LevelNodes]:
    tree, levels = lod_map.tree, lod_map.levels
    for level in range(1, tree.max_level + 1):
        blocks = lod_map.first_block + np.flatnonzero(levels == level)
        per_node = tree.blocks_per_node(level)
        yield level, blocks[blocks % per_node == 0] // per_node


def _collapses(lod_map: LODMap, last_end: int) -> Iterator[_LevelNodes]:
    tree, levels = lod_map.tree, lod_map.levels
    for level in range(1, tree.max_level + 1):
        per_node = tree.blocks_per_node(level)
        nodes = (lod_map.first_block + np.flatnonzero(levels == level - 1)) // per_node
        # Sorted, so a node's blocks are adjacent; it is complete where the last of K positions is still its
        # own.
        first = np.flatnonzero(np.diff(nodes, prepend=-1))
        first = first[first + per_node <= len(nodes)]
        index_a = nodes[first]
        whole = (nodes[first + per_node - 1] == index_a) & (
            (index_a + 1) * tree.span_width(level) <= last_end
        )
        yield level, index_a[whole]
