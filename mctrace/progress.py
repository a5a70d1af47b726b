"""How long work tells that it is getting on, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """One long step: told its total once, then how much more is done."""

    def start(self, label: str, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float = 1, note: str = "") -> None: ...

    def stop(self) -> None: ...


class Silent:
    """A listener that does not listen."""

    def start(self, label: str, total: float | None, unit: str) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    def stop(self) -> None:
        pass
