"""Being told to stop, politely: the first signal asks, a second one insists."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def asked_to_stop(tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C has come since; the next one raises KeyboardInterrupt. `tell` hears of it."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        tell(f"{signal.Signals(signum).name}: saving after this step (once more to stop at once)")

    before = {one: signal.signal(one, ask) for one in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
