"""Rates of the nodes of a run, for a person who watches it."""

from collections import deque
from time import monotonic

_WINDOW = 60.0
"""Seconds over which a rate is taken."""


class NodeRates:
    """What each node has done lately."""

    def __init__(self) -> None:
        self._started = monotonic()
        self._done: dict[str, deque[tuple[float, float]]] = {}

    def add(self, node: str, amount: float) -> None:
        self._done.setdefault(node, deque()).append((monotonic(), amount))

    def rates(self) -> dict[str, float]:
        """Amount a second by node; one that has done nothing for a minute is left out."""
        now = monotonic()
        seconds = max(1e-3, min(_WINDOW, now - self._started))
        rates = {}
        for node, done in list(self._done.items()):
            while done and done[0][0] < now - _WINDOW:
                done.popleft()
            if done:
                rates[node] = sum(amount for _, amount in done) / seconds
            else:
                del self._done[node]
        return rates

    def __str__(self) -> str:
        """ "a (node 1b2c) 3.1/s, …"; empty for one node."""
        rates = self.rates()
        if len(rates) < 2:
            return ""
        return ", ".join(f"{node} {rate:.2f}/s" for node, rate in sorted(rates.items()))
