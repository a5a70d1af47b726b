"""What a run says while it works (actors awaited, nodes lost, items tried again), above its progress bar."""

import logging

from rich.console import Console

_LOGGER = "mctrace.collect"


def print_messages(console: Console) -> None:
    """Print every message of the run's pool from now on, a line each; a worker's own stay in its log."""
    logger = logging.getLogger(_LOGGER)
    for earlier in [handler for handler in logger.handlers if isinstance(handler, _Lines)]:
        logger.removeHandler(earlier)
    logger.addHandler(_Lines(console))
    logging.getLogger("mctrace").setLevel(logging.INFO)


class _Lines(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.endswith(".worker"):
            return
        line = " ".join(record.getMessage().split())
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
