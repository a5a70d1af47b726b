"""Progress protocol for long-running work, independent of how progress is displayed."""

from typing import Protocol


class Progress(Protocol):
    """Progress of one long step: its total is given once, then increments."""

    def start(self, label: str, total: float | None, unit: str) -> None:
        """A step that is not counted has no `total` and no `unit`, and never advances."""
        ...

    def advance(self, amount: float = 1, note: str = "") -> None: ...

    def stop(self) -> None: ...


class Silent:
    """Progress that displays nothing."""

    def start(self, label: str, total: float | None, unit: str) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    def stop(self) -> None:
        pass
