"""Commands run in this process, for tests of their output and errors."""

import signal
from collections.abc import Callable

import pytest

from mctrace.cli import app

Answer = tuple[int, str, str]
"""exit code, output, errors"""


@pytest.fixture
def call_mctrace(monkeypatch, capsys) -> Callable[..., Answer]:
    """Runs `mctrace` with these arguments, and restores the process's own SIGTERM handler."""

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["mctrace", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return code, out, err

    return call
