"""SIGTERM and Ctrl-C as a request to save and end after the current step; a second signal stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals(notify: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once SIGTERM or Ctrl-C has come; `notify` receives a message then.

    The second signal raises KeyboardInterrupt.
    """
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        notify(f"{signal.Signals(signum).name}: saving after this step (once more to stop at once)")

    before = {one: signal.signal(one, ask) for one in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
