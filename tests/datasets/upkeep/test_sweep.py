"""A sweep and a commit may meet anywhere: what a version names is there, and what is there is spared."""

import os
import random
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from mctrace.datasets.store import ledger
from mctrace.datasets.store import store as store_module
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep import sweep as sweep_module
from mctrace.datasets.upkeep.sweep import sweep
from mctrace.datasets.upkeep.verify import verify
from mctrace.errors import InputError, StoreError
from mctrace.progress import Silent

NOW = timedelta(0)


def written(store: Store, part_id: str) -> Part:
    return write_part(store.location, part_id=part_id, kind="run", run_id="r", tables={"runs": []})


def make_old(store: Store, *folders: str, seconds: float = 7200) -> None:
    """Folders of the store, with all that is in them, as if written some time ago."""
    then = time.time() - seconds
    for folder in folders:
        path = Path(store.location.path(folder))
        for one in [*path.rglob("*"), path]:
            os.utime(one, (then, then))


def problems(store: Store) -> list[tuple[str, str]]:
    return [(p.place, p.what) for p in verify(store.at(), quick=False, progress=Silent())]


def is_there(store: Store, folder: str) -> bool:
    return Path(store.location.path(folder)).exists()


@pytest.mark.parametrize("place", ["a part", "scratch"])
@pytest.mark.parametrize("seconds", [60, -3600])
def test_it_refuses_while_anything_is_fresh_and_says_how_long_to_wait(store, place, seconds):
    fresh = written(store, "fresh").folder if place == "a part" else "staging/tmp1"
    old = written(store, "old").folder
    Path(store.location.path(fresh)).mkdir(exist_ok=True)
    make_old(store, old)
    make_old(store, fresh, seconds=seconds)
    what = rf"nothing was swept: .*{fresh} was written .*; wait {15 - seconds // 60} minutes"
    with pytest.raises(InputError, match=what):
        sweep(store, NOW)
    assert is_there(store, fresh)
    assert is_there(store, old)
    assert sweep(store, timedelta(minutes=15)) == [old]
    assert is_there(store, fresh)


def test_what_is_committed_between_its_two_looks_is_spared(store, monkeypatch):
    part, other = written(store, "raced"), written(store, "lost")
    make_old(store, part.folder, other.folder)
    monkeypatch.setattr(
        sweep_module, "_refuse_fresh", lambda *_: open_store(store.location.uri).commit([part])
    )
    assert sweep(store, NOW) == [other.folder]
    assert "raced" in store.at().part_ids
    assert problems(store) == []


def test_what_it_removes_between_the_looks_of_a_commit_is_not_committed(store, monkeypatch):
    parts = [written(store, "swept"), written(store, "with-it")]
    make_old(store, parts[0].folder)
    monkeypatch.setattr(sweep_module, "FRESH", NOW)
    before = store.at()
    look = ledger.refuse_missing

    def look_then_sweep(location: Location, looked_at: list[Part]) -> None:
        look(location, looked_at)
        assert sweep(open_store(store.location.uri), timedelta(hours=1)) == [parts[0].folder]

    monkeypatch.setattr(ledger, "refuse_missing", look_then_sweep)
    with pytest.raises(StoreError, match=r"a sweep .* removed .*swept.* the same command"):
        store.commit(parts)
    assert store.at().part_ids == before.part_ids
    assert problems(store) == []
    monkeypatch.setattr(ledger, "refuse_missing", look)
    store.commit([written(store, "swept"), written(store, "with-it")])  # measured again
    assert store.at().part_ids == before.part_ids | {"swept", "with-it"}
    assert problems(store) == []


def test_what_is_named_by_the_time_it_looks_is_committed(store, monkeypatch):
    part = written(store, "named")
    make_old(store, part.folder)
    look = store_module.noticed

    def sweep_then_look(location: Location, parts: list[Part]) -> list[Part]:
        assert sweep(open_store(store.location.uri), NOW) == []
        return look(location, parts)

    monkeypatch.setattr(store_module, "noticed", sweep_then_look)
    assert store.commit([part]) == [part]
    assert problems(store) == []


def test_files_that_vanish_while_it_walks_are_passed_over(store, monkeypatch):
    gone, lost = written(store, "gone"), written(store, "lost")
    make_old(store, gone.folder, lost.folder)

    class Entries(list):
        def __enter__(self):
            return iter(self)

        def __exit__(self, *_):
            return None

    def scandir(path, found=os.scandir):
        entries = Entries(found(path))
        if str(path).endswith(gone.folder):
            Path(store.location.path(gone.folder), "runs.parquet").unlink()
        return entries

    monkeypatch.setattr("mctrace.datasets.store.location.os.scandir", scandir)
    assert lost.folder in sweep(store, timedelta(hours=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="no mode keeps root from removing")
def test_what_may_not_be_removed_is_named(store):
    lost = written(store, "lost")
    make_old(store, lost.folder)
    Path(store.location.path(lost.folder)).chmod(0o500)
    with pytest.raises(StoreError, match=r"1 of 1 .*lost.*Permission denied"):
        sweep(store, timedelta(hours=1))


def test_notices_go_after_a_day(store):
    make_old(store, written(store, "lost").folder)
    sweep(store, timedelta(hours=1))
    assert len(list(Path(store.location.path("sweeps")).iterdir())) == 1
    make_old(store, "sweeps", seconds=25 * 3600)
    sweep(store)
    assert list(Path(store.location.path("sweeps")).iterdir()) == []


def test_under_commits_and_sweeps_at_once_nothing_that_was_committed_is_lost(store, monkeypatch):
    """Sweeps with no grace at all, some of which hit: each commit is whole, or says that it is none."""
    monkeypatch.setattr(sweep_module, "FRESH", timedelta(seconds=-1))
    monkeypatch.setattr(ledger, "_LONGEST_PAUSE", 0.01)
    done, committed, refused = threading.Event(), list[str](), list[str]()

    def commit(name: str) -> None:
        mine, chance = open_store(store.location.uri), random.Random(name)
        for i in range(12):
            try:
                part = written(mine, f"{name}{i}")
                time.sleep(chance.random() * 0.02)
                mine.commit([part])
                committed.append(part.part_id)
            except StoreError as error:
                refused.append(str(error))

    def keep_sweeping() -> None:
        mine = open_store(store.location.uri)
        while not done.is_set():
            sweep(mine, timedelta(seconds=-1))

    writers = [threading.Thread(target=commit, args=(name,)) for name in "ab"]
    sweeper = threading.Thread(target=keep_sweeping)
    for thread in (sweeper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    sweeper.join()
    assert refused
    assert set(committed) <= store.at().part_ids
    assert problems(store) == []
