"""Places of edits in their context, from lengths alone: all that counting work needs, in microseconds.

`edits.py` builds the entries that an edit puts in place of others; here nothing is built. Where an entry
begins follows from the LOD map's levels by a running sum.

Shapes: B blocks of the context, A actions.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mctrace.context.actions import Action
from mctrace.context.lod_map import IntArray
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node


class EditPlace(NamedTuple):
    """Entries [first_entry, end_entry) of the baseline give way to `length_change` more (or fewer)."""

    first_entry: int
    end_entry: int
    length_change: int
    first_token: int
    """first token of the effect"""
    first_read: int
    """entry at which the loss of `first_token` is read: the one before it"""


class ContextPlaces:
    """Where tokens stand among the entries of a trajectory's context, its tail included."""

    def __init__(self, trajectory: Trajectory) -> None:
        context = trajectory.context
        tree, levels_B = context.tree, context.levels.astype(np.int64)
        blocks_B = context.first_block + np.arange(len(levels_B))
        num_entries_B = np.where(levels_B == 0, tree.block_size, 0)
        for level in range(1, tree.max_level + 1):
            num_entries_B[(levels_B == level) & (blocks_B % tree.blocks_per_node(level) == 0)] = (
                tree.positions_of(level)
            )
        if levels_B[-1] == 0:
            num_entries_B[-1] = context.cursor - int(blocks_B[-1]) * tree.block_size
        self.trajectory, self._tree, self._start = trajectory, tree, context.start
        # What stands at a block's beginning, in positions: entries that run, where gists take one each.
        self._first_entry = np.concatenate([[0], np.cumsum(num_entries_B)])
        self.num_entries = int(self._first_entry[-1])

    def baseline(self) -> EditPlace:
        """Nothing changes and everything runs."""
        first_token = self.trajectory.first_cursor
        return EditPlace(0, 0, 0, first_token, int(self._index(np.array([first_token]))[0]) - 1)

    def actions(self, actions: Sequence[Action]) -> list[EditPlace]:
        """The place of each action."""
        changes = [action.change_in_positions(self._tree) for action in actions]
        return self._places([self._tree.span(action.node) for action in actions], changes)

    def drops(self, nodes: Sequence[Node]) -> list[EditPlace]:
        """The place of each node that is left out."""
        return self._places([self._tree.span(node) for node in nodes], None)

    def joints(self, joints: Iterable[Sequence[Action]]) -> list[EditPlace]:
        """The place of each set of actions that are done at once."""
        spans, changes = [], []
        for actions in joints:
            each = [self._tree.span(action.node) for action in actions]
            spans.append((min(first for first, _ in each), max(end for _, end in each)))
            changes.append(sum(action.change_in_positions(self._tree) for action in actions))
        return self._places(spans, changes)

    def _places(self, spans: Sequence[tuple[int, int]], changes: Sequence[int] | None) -> list[EditPlace]:
        if not spans:
            return []
        spans_A2 = np.array(spans, dtype=np.int64)
        first_A, end_A = self._index(spans_A2[:, 0]), self._index(spans_A2[:, 1])
        token_A = np.maximum(spans_A2[:, 1], self.trajectory.first_cursor)
        read_A = self._index(token_A) - 1
        change_A = (first_A - end_A).tolist() if changes is None else changes
        columns = (first_A.tolist(), end_A.tolist(), change_A, token_A.tolist(), read_A.tolist())
        return list(map(EditPlace, *columns))

    def _index(self, token_A: IntArray) -> IntArray:
        """Index of the entry that begins at each token; the number of entries for the context's end."""
        block_A, rest_A = np.divmod(token_A - self._start, self._tree.block_size)
        return self._first_entry[block_A] + rest_A
