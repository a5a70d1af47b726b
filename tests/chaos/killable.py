"""Commands that can be killed at any change they make to files, started from a process that has all imported.

A command under Python announces every change before it makes it (an audit event); what Rust and C++ change
comes between two such events. So a kill is set for a number of events and a delay after the last of them:
the same seed kills at the same place whatever the machine does. A kill by the clock alone is the other kind.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.chaos.findings import SceneError
from tests.chaos.fixture import LIMIT

IMPORTED = ("tests.chaos.killable", "mctrace.cli.app", "torch", "transformers", "duckdb", "deltalake", "zarr",
            "pyarrow.dataset", "tensorboard", "scipy.stats")  # fmt: skip
_CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime",
    "os.chmod",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Kill:
    """SIGKILL `seconds` after the change of that number is announced, or after the start where that is 0."""

    at_change: int
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal; changes announced, 0 where it was killed."""

    code: int
    num_changes: int
    seconds: float

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def run_command(arguments: Sequence[str], folder: Path, kill: Kill | None = None) -> Ended:
    """Runs `mctrace` with these arguments in a folder; its output goes to `output.log` there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_command, args=(list(arguments), str(folder), kill, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    if kill and not kill.at_change:
        process.join(kill.seconds)
        process.kill()
    num_changes = 0
    with suppress(EOFError):
        num_changes = receiver.recv()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        raise SceneError(f"mctrace {' '.join(arguments)} ran for more than {LIMIT} s")
    return Ended(process.exitcode, num_changes, time.monotonic() - started)


def _command(arguments: list[str], folder: str, kill: Kill | None, sender: Connection) -> None:
    from mctrace.cli import app

    os.chdir(folder)
    output = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    num_changes = 0

    def announced(event: str, values: tuple[Any, ...]) -> None:
        nonlocal num_changes
        if event in _CHANGES or (event == "open" and values[2] & _WRITING):
            num_changes += 1
            if kill and num_changes == kill.at_change:
                _kill_after(kill.seconds)

    sys.addaudithook(announced)
    sys.argv = ["mctrace", *arguments]
    try:
        app.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sender.send(num_changes)


def _kill_after(seconds: float) -> None:
    if seconds:
        threading.Thread(target=lambda: (time.sleep(seconds), _kill_self()), daemon=True).start()
    else:
        _kill_self()


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
