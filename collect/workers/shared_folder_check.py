"""Check, by writing and reading, that every node of a cluster sees the same store folder.

The driver writes a file with a secret in it; each node reads it and writes one of its own, which the driver
must then see. A path that merely exists everywhere fails.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mctrace.errors import ConfigError

_QUESTION = "question"
_PATIENCE = 10.0
"""Seconds until what one node wrote must be seen by another: network file systems cache."""


def refuse_unshared(folder: Path, nodes: Iterable[str], ask: Callable[[Path, Iterable[str]], object]) -> None:
    """Raises ConfigError naming the nodes that do not see the store at `folder` as this one does.

    `ask(place, nodes)` has `answer` called with `place` on every node.
    """
    secret, nodes = secrets.token_hex(16), list(nodes)
    place = folder / "staging" / f"nodes-{secret[:8]}"
    try:
        place.mkdir(parents=True)
        (place / _QUESTION).write_text(secret)
        ask(place, nodes)
        blind = _unanswered(place, dict.fromkeys(nodes, secret))
    except OSError as error:
        raise ConfigError(f"cannot write to the store {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if blind:
        raise ConfigError(
            f"the cluster has {len(nodes)} nodes and {len(blind)} of them ({', '.join(sorted(blind))}) do "
            f"not see the local folder {folder} as this one does: put the store on a file system that all "
            "nodes share, or give --store a URI that every node reaches"
        )


def answer(place: Path, node: str) -> None:
    """On a node: repeats what the driver left at `place`, where it is seen within some seconds."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and place.parent.parent.is_dir():
        try:
            (place / node).write_text((place / _QUESTION).read_text())
            return
        except OSError:
            time.sleep(0.2)


def _unanswered(place: Path, expected: Mapping[str, str]) -> list[str]:
    deadline = time.monotonic() + _PATIENCE
    while True:
        left = [node for node, secret in expected.items() if _read(place / node) != secret]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
