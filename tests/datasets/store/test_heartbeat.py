"""Signs of life of collection runs."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mctrace.datasets.store.heartbeat import FOLDER, heartbeat, is_fresh, last_sign
from mctrace.datasets.store.location import Location
from mctrace.datasets.upkeep.run_log import logged_runs
from tests.datasets.synthetic import synthetic_store


def test_a_run_is_seen_while_it_works_and_not_afterwards(tmp_path: Path) -> None:
    location = Location.of(str(tmp_path))
    with heartbeat(location, "one", interval_seconds=0.05):
        first = last_sign(location, "one")
        assert is_fresh(first)
        deadline = time.monotonic() + 10
        while last_sign(location, "one") == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert last_sign(location, "one") is None
    assert not list((tmp_path / FOLDER).iterdir())


def test_an_old_sign_is_that_of_a_killed_run(tmp_path: Path) -> None:
    location = Location.of(str(tmp_path))
    old = datetime.now(UTC) - timedelta(minutes=3)
    location.write_bytes(f"{FOLDER}/two", old.isoformat().encode())
    assert last_sign(location, "two") == old
    assert not is_fresh(old)
    assert not is_fresh(None)


def test_the_log_tells_a_run_at_work_from_a_killed_one(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path)  # of a run without an end row

    def state() -> str:
        (run,) = logged_runs(store, store.at())
        return run.state

    assert state() == "killed"
    with heartbeat(store.location, "run"):
        assert state() == "running"
    assert state() == "killed"


def test_a_store_that_takes_no_sign_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with heartbeat(Location.of(str(tmp_path)), "three", interval_seconds=0.01):
        time.sleep(0.05)
    with pytest.raises(ZeroDivisionError), heartbeat(Location.of(str(tmp_path)), "three"):
        raise ZeroDivisionError
