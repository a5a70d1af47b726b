"""Items still to be given out: those to be tried again before new ones, each with what went wrong so far.

New items are drawn one at a time, so that a plan of any length costs no memory here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Attempt(Generic[Item]):
    """An item with its history."""

    item: Item
    num_failures: int = 0
    """times it raised or killed its worker"""
    num_faults: int = 0
    """times in a row that infrastructure failed it"""
    num_losses: int = 0
    """times its worker was lost through no fault of its own"""

    def failed(self) -> "Attempt[Item]":
        return replace(self, num_failures=self.num_failures + 1, num_faults=0)

    def faulted(self) -> "Attempt[Item]":
        return replace(self, num_faults=self.num_faults + 1)

    def lost(self) -> "Attempt[Item]":
        return replace(self, num_losses=self.num_losses + 1)

    @property
    def is_suspect(self) -> bool:
        """True for an item that failed before: to be tried alone, so that the next failure is its own."""
        return self.num_failures > 0


class WorkQueue(Generic[Item]):
    """Items to give out."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._new = items
        self._all_drawn = False
        self._retries: list[tuple[float, int, Attempt[Item]]] = []
        self._order = count()

    def take(self, *, is_idle: bool) -> Attempt[Item] | None:
        """The next due item, for a worker that `is_idle` or has one already; None where there is none now.

        While a suspect is due, a worker that is busy gets nothing, so that one is idle soon and takes it.
        """
        if self._retries and self._retries[0][0] <= monotonic():
            if self._retries[0][2].is_suspect and not is_idle:
                return None
            return heappop(self._retries)[2]
        if self._all_drawn:
            return None
        item = next(self._new, None)
        self._all_drawn = item is None
        return None if item is None else Attempt(item)

    def put_back(self, attempt: Attempt[Item], pause: float = 0.0) -> None:
        """Gives an item out again, not before `pause` seconds have passed."""
        heappush(self._retries, (monotonic() + pause, next(self._order), attempt))

    @property
    def is_empty(self) -> bool:
        """True when every item was drawn and none waits to be tried again."""
        return self._all_drawn and not self._retries

    def seconds_to_next(self, most: float) -> float:
        """Seconds until an item that waits is due, at most `most`."""
        if not self._retries:
            return most
        return min(most, max(0.0, self._retries[0][0] - monotonic()))
