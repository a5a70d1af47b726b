"""Actions on a working context: legality, cost in positions, and the resulting LOD map.

Four kinds: expand and collapse between neighbouring levels; insert and drop between a level and absence,
where the tree allows blocks to be absent (docs/absence.md). Expand and insert show more, collapse and drop
less.

Legality is structural and determines what is measured. The budget is not part of it: it constrains the focus
allocator only, otherwise a full context would have no expands to learn from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mctrace.context.lod_map import IntArray, LODMap
from mctrace.context.tree import ABSENT, Node, TreeShape
from mctrace.errors import LegalityError

ActionKind = Literal["expand", "collapse", "insert", "drop"]
ACTION_KINDS: tuple[str, ...] = get_args(ActionKind)
SHOWS_MORE = ("expand", "insert")
"""kinds that add positions; the others free some"""


@dataclass(frozen=True, slots=True)
class Action:
    """expand(node): a gist becomes its K children. collapse(node): the K siblings become their gist.

    insert(node): an absent node is shown, at `entry_level`. drop(node): its entries become absent.
    """

    kind: ActionKind
    node: Node
    entry_level: int = -1
    """level of the entries that the action replaces, or of those an insert brings; follows from the node for
    an expand or a collapse, and is 0 unless given for an insert or a drop"""

    def __post_init__(self) -> None:
        if self.kind in ("expand", "collapse"):
            object.__setattr__(self, "entry_level", self.node.level - (self.kind == "collapse"))
        elif self.entry_level < 0:
            object.__setattr__(self, "entry_level", 0)

    def __reduce__(self) -> tuple[type["Action"], tuple[ActionKind, Node, int]]:
        """As fast as pickling is, like a node's."""
        return Action, (self.kind, self.node, self.entry_level)

    @property
    def shows_more(self) -> bool:
        return self.kind in SHOWS_MORE

    @property
    def level_before(self) -> int:
        """Level at which the node's span is represented before the action."""
        return ABSENT if self.kind == "insert" else self.entry_level

    @property
    def level_after(self) -> int:
        """Level at which the node's span is represented afterwards."""
        after = {"expand": self.node.level - 1, "collapse": self.node.level, "insert": self.entry_level}
        return after.get(self.kind, ABSENT)

    def positions(self, tree: TreeShape) -> int:
        """Working-context positions that the action adds or frees: what the node's entries take, less what
        its gist does (K - 1 where each takes one); of an insert or a drop all of its entries'."""
        level = self.node.level
        if self.kind in ("expand", "collapse"):
            return tree.block_size * tree.positions_of(level - 1) - tree.positions_of(level)
        return int(tree.block_size ** (level - self.entry_level)) * tree.positions_of(self.entry_level)

    def change_in_positions(self, tree: TreeShape) -> int:
        """Positions that the action adds; negative for those it frees."""
        return self.positions(tree) if self.shows_more else -self.positions(tree)

    def entries(self, tree: TreeShape) -> tuple[Node, ...]:
        """Nodes whose entries the action replaces; of an insert the absent node itself."""
        if self.kind == "insert" or self.entry_level == self.node.level:
            return (self.node,)
        size = tree.block_size ** (self.node.level - self.entry_level)
        first = self.node.index * size
        return tuple(Node(self.entry_level, index) for index in range(first, first + size))


@dataclass(frozen=True, eq=False)
class ActionArrays:
    """Actions as parallel arrays of length A, for maps of a million blocks. Nodes: `level_A`, `index_A`."""

    is_expand_A: npt.NDArray[np.bool_]
    """True for an action that shows more: an expand or an insert"""
    level_A: IntArray
    index_A: IntArray
    absent_level_A: IntArray
    """the `entry_level` of an insert or a drop; -1 for an expand or a collapse"""

    def __len__(self) -> int:
        return len(self.level_A)

    def action(self, i: int) -> Action:
        """The action at position `i`."""
        entry_level = int(self.absent_level_A[i])
        kinds: tuple[ActionKind, ...] = ("collapse", "expand") if entry_level < 0 else ("drop", "insert")
        node = Node(int(self.level_A[i]), int(self.index_A[i]))
        return Action(kinds[int(self.is_expand_A[i])], node, entry_level)

    def positions_A(self, tree: TreeShape) -> IntArray:
        """Positions [A] that each action adds or frees."""
        positions_L = np.array([tree.positions_of(level) for level in range(tree.max_level + 1)])
        num_entries_A = tree.block_size ** np.maximum(self.level_A - self.absent_level_A, 0)
        between_A = tree.block_size * positions_L[self.level_A - 1] - positions_L[self.level_A]
        absent_A = num_entries_A * positions_L[np.maximum(self.absent_level_A, 0)]
        found_A: IntArray = np.where(self.absent_level_A < 0, between_A, absent_A)
        return found_A

    def num_replaced_A(self, tree: TreeShape) -> IntArray:
        """Scored nodes [A] that each action replaces: K of a collapse, all entries of a drop, else one."""
        num_entries_A = tree.block_size ** np.maximum(self.level_A - self.absent_level_A, 0)
        of_shrinking_A = np.where(self.absent_level_A < 0, tree.block_size, num_entries_A)
        return np.where(self.is_expand_A, 1, of_shrinking_A)

    def at(self, places: IntArray) -> "ActionArrays":
        """The actions at `places`."""
        return ActionArrays(
            self.is_expand_A[places], self.level_A[places], self.index_A[places], self.absent_level_A[places]
        )


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
        if (levels[blocks] != action.level_before).any():
            before = "absent" if action.kind == "insert" else f"at level {action.level_before}"
            raise LegalityError(f"cannot {action.kind} {action.node}: its span is not {before}")
        levels[blocks] = action.level_after
    return LODMap(lod_map.tree, lod_map.start, lod_map.cursor, levels)


def legal_actions(lod_map: LODMap, protected_tail: int) -> list[Action]:
    """Every legal action of a working context: expands oldest first, then collapses level by level."""
    arrays = legal_action_arrays(lod_map, protected_tail)
    return [arrays.action(i) for i in range(len(arrays))]


def legal_action_arrays(lod_map: LODMap, protected_tail: int) -> ActionArrays:
    """Legal actions as arrays, in the order of `legal_actions`.

    An expand needs a gist. A collapse needs all K siblings of a complete node at one level, none of them in
    the most recent `protected_tail` tokens. Where the tree allows absence, absent blocks are inserted, and a
    block of tokens or a gist is dropped, outside the protected tail too and never the only one shown; inserts
    and drops come after the others.
    """
    last_end = lod_map.cursor - protected_tail
    expands = _joined(_expands(lod_map))
    # By position, whatever the level. Part ids hash measured actions in this order, so it must not change.
    by_position = np.argsort(expands[1] * lod_map.tree.block_size ** expands[0], kind="stable")
    collapses = _joined(_collapses(lod_map, last_end))
    between = ActionArrays(
        np.arange(len(by_position) + len(collapses[0])) < len(by_position),
        np.concatenate([expands[0][by_position], collapses[0]]),
        np.concatenate([expands[1][by_position], collapses[1]]),
        np.full(len(by_position) + len(collapses[0]), -1),
    )
    if lod_map.tree.absence == "off":
        return between
    inserts, drops = _inserts(lod_map), _drops(lod_map, last_end)
    return ActionArrays(
        *(
            np.concatenate([getattr(part, field.name) for part in (between, inserts, drops)])
            for field in fields(ActionArrays)
        )
    )


def is_legal_at(action: Action, tree: TreeShape, cursor: int, protected_tail: int) -> bool:
    """True if an action that is legal on a trajectory's map is legal for the snapshot at `cursor`."""
    end = tree.span(action.node)[1]
    return end <= (cursor if action.shows_more else cursor - protected_tail)


_LevelNodes = tuple[int, IntArray]
"""a level and the indices of some of its nodes, ascending"""


def _joined(groups: Iterator[_LevelNodes]) -> tuple[IntArray, IntArray]:
    """Levels and indices of all nodes, in order."""
    levels, indices = zip(*groups, strict=True)
    return np.repeat(levels, [len(index_a) for index_a in indices]), np.concatenate(indices)


def _expands(lod_map: LODMap) -> Iterator[_LevelNodes]:
    tree, levels = lod_map.tree, lod_map.levels
    for level in range(1, tree.max_level + 1):
        (blocks,) = (levels == level).nonzero()
        blocks += lod_map.first_block
        per_node = tree.blocks_per_node(level)
        yield level, blocks if per_node == 1 else blocks[blocks % per_node == 0] // per_node


def _inserts(lod_map: LODMap) -> ActionArrays:
    """Every absent block, as what the tree says."""
    blocks = lod_map.first_block + np.flatnonzero(lod_map.levels == ABSENT)
    entry_level = 0 if lod_map.tree.absence == "tokens" else 1
    ones = np.ones(len(blocks), dtype=np.int64)
    return ActionArrays(ones > 0, ones, blocks, ones * entry_level)


def _drops(lod_map: LODMap, last_end: int) -> ActionArrays:
    """Every block of tokens and every gist that ends at or before `last_end`, oldest first."""
    tree = lod_map.tree
    blocks = lod_map.first_block + np.arange(len(lod_map.levels))
    levels = lod_map.levels.astype(np.int64)
    per_node = np.where(levels == ABSENT, 1, tree.block_size ** np.maximum(levels % ABSENT - 1, 0))
    is_head = (levels != ABSENT) & (blocks % per_node == 0)
    is_old = (blocks + per_node) * tree.block_size <= last_end
    chosen = is_head & is_old if is_head.sum() > 1 else np.zeros(len(blocks), dtype=bool)
    level_D, index_D = levels[chosen], blocks[chosen] // per_node[chosen]
    return ActionArrays(np.zeros(len(level_D), dtype=bool), np.maximum(level_D, 1), index_D, level_D)


def _collapses(lod_map: LODMap, last_end: int) -> Iterator[_LevelNodes]:
    tree, levels = lod_map.tree, lod_map.levels
    for level in range(1, tree.max_level + 1):
        per_node = tree.blocks_per_node(level)
        (nodes,) = (levels == level - 1).nonzero()
        nodes += lod_map.first_block
        if per_node > 1:
            nodes //= per_node
            # Sorted, so a node's blocks are adjacent; it is complete where the last of K positions is still
            # its own.
            is_first = np.ones(len(nodes), dtype=bool)
            np.not_equal(nodes[1:], nodes[:-1], out=is_first[1:])
            (first,) = is_first.nonzero()
            first = first[first + per_node <= len(nodes)]
            nodes = nodes[first[nodes[first + per_node - 1] == nodes[first]]]
        yield level, nodes[(nodes + 1) * tree.span_width(level) <= last_end]
