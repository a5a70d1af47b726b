"""Trajectories: one document, one LOD map of its head, and several cursors that share it.

The tail between the first and the last cursor grows at level 0, so one counterfactual pass per action serves
all cursors: later tokens cannot influence earlier losses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mctrace.context.actions import Action, legal_actions
from mctrace.context.lod_map import Entries, IntArray, LODMap
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
    extracts: Mapping[Node, IntArray] | None = field(default=None, compare=False)
    """tokens [M] that stand for each gist, where gists are some of their own tokens: known to who measures"""

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

    @cached_property
    def entries(self) -> Entries:
        """Entries of the context as the base model reads them."""
        return self.as_read(self.context)

    def as_read(self, lod_map: LODMap) -> Entries:
        """Entries that the base model reads for a map: its own, or the tokens that stand for its gists.

        Where tokens stand for gists, the context's first one stays whatever the map shows.
        """
        if self.extracts is None:
            return lod_map.entries
        entries, extracts = lod_map.entries, self.extracts
        is_token_N = entries.level_N == 0
        gists = map(Node, entries.level_N[~is_token_N].tolist(), entries.index_N[~is_token_N].tolist())
        shown = [entries.first_token_N[is_token_N], *(extracts[node] for node in gists)]
        token_N = np.union1d(lod_map.start, np.concatenate(shown))
        return Entries(np.zeros_like(token_N), token_N, token_N, np.ones_like(token_N))

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
