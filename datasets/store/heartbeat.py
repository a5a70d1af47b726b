"""Sign of life of a collection run: a small file that says when its driver was last at work.

The ledger cannot tell a run at work from one that was killed: neither has an end row. So a driver writes
`running/RUN_ID` in the store every `INTERVAL_SECONDS` while it works, and removes it at its end. Whoever
looks at the store, from any machine, takes a run without an end row for running while that file is fresh.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from mctrace.datasets.store.location import Location

FOLDER = "running"
INTERVAL_SECONDS = 20.0
_FRESH = timedelta(minutes=2)
"""age up to which a sign of life counts: six of them may be late, or the clocks of two machines disagree"""
_KEPT = timedelta(days=7)
"""age from which the next run removes the sign of one that was killed"""


@contextmanager
def heartbeat(location: Location, run_id: str, interval_seconds: float = INTERVAL_SECONDS) -> Iterator[None]:
    """Write signs of life of a run inside the context. A store that cannot be written to loses only them."""
    ended = threading.Event()
    thread = threading.Thread(
        target=_beat, args=(location, run_id, ended, interval_seconds), name="heartbeat", daemon=True
    )
    _write(location, run_id)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            _remove_old(location)
            location.remove_file(_place(run_id))


def last_sign(location: Location, run_id: str) -> datetime | None:
    """When the driver of a run was last at work, by its own clock; None where it left no sign."""
    try:
        return datetime.fromisoformat(location.read_bytes(_place(run_id)).decode())
    except (OSError, ValueError):
        return None


def is_fresh(sign: datetime | None) -> bool:
    """Whether the driver that left this sign is at work."""
    return sign is not None and datetime.now(UTC) - sign <= _FRESH


def _beat(location: Location, run_id: str, ended: threading.Event, interval_seconds: float) -> None:
    while not ended.wait(interval_seconds):
        _write(location, run_id)


def _write(location: Location, run_id: str) -> None:
    with contextlib.suppress(OSError):
        location.write_bytes(_place(run_id), datetime.now(UTC).isoformat().encode())


def _remove_old(location: Location) -> None:
    for place, modified in location.modified_times(FOLDER).items():
        if datetime.now(UTC).timestamp() - modified > _KEPT.total_seconds():
            location.remove_file(place)


def _place(run_id: str) -> str:
    return f"{FOLDER}/{run_id}"
