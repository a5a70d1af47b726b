"""Trajectories: one document, one LOD map of its head, and several cursors that share it.

The tail between the first and the last cursor grows at level 0, so one counterfactual pass per action serves
all cursors: later tokens cannot influence earlier losses.
"""

from dataclasses import dataclass
from functools import cached_property

from mctrace.context.actions import Action, legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node
from mctrace.errors import LegalityError


@dataclass(frozen=True)
class Trajectory:
    """A head map at its first cursor, the cursors that share it, and the horizon H (tokens) after each.

    Raises LegalityError unless the cursors increase strictly and start at the map's cursor.
    """

    head: LODMap
    cursors: tuple[int, ...]
    horizon: int

    def __post_init__(self) -> None:
        if not self.cursors or self.cursors[0] != self.head.cursor:
            raise LegalityError(
                f"the first cursor must be the map's cursor {self.head.cursor}, got {self.cursors[:1]}"
            )
        if any(a >= b for a, b in zip(self.cursors, self.cursors[1:], strict=False)):
            raise LegalityError(f"cursors must increase strictly, got {self.cursors}")
        if self.horizon < 1:
            raise LegalityError(f"horizon must be at least 1 token, got {self.horizon}")

    @property
    def first_cursor(self) -> int:
        return self.cursors[0]

    @property
    def last_cursor(self) -> int:
        return self.cursors[-1]

    @property
    def end(self) -> int:
        """One past the last token whose loss is measured: last cursor + H."""
        return self.last_cursor + self.horizon

    @cached_property
    def context(self) -> LODMap:
        """The head's map extended with tokens up to the last token whose loss is measured."""
        return self.head.extended(self.end)

    @property
    def num_positions(self) -> int:
        """Position ids that the base model must support: the whole span, whatever its levels."""
        return self.end - self.head.start

    def first_token_after(self, end: int) -> int:
        """First token of the effect of an edit that ends at token `end`; never before the first cursor."""
        return max(self.first_cursor, end)

    def legal_actions(self, protected_tail: int) -> list[Action]:
        """Actions legal at any cursor; tail blocks become collapsible at the later ones.

        No drop leaves the first cursor without an entry before it.
        """
        found = legal_actions(self.head.extended(self.last_cursor), protected_tail)
        return [action for action in found if action.kind != "drop" or self.can_drop(action.node)]

    def can_drop(self, node: Node) -> bool:
        """True if the entries of `node` may be left out: something stands before the first token read."""
        first, end = self.head.tree.span(node)
        return end < self.first_cursor or first > int(self.context.entries.first_token_N[0])
