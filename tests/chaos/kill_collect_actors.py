"""SIGKILL to the driver of a collection on Ray or to one of its actors, again and again.

Several actors measure a tiny model into one store while seeded chance kills, half of the time in the middle
of a write. The same command is started again until enough kills are done, then left alone to finish. What it
leaves must be what a run without any kill leaves.
"""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from mctrace.collect.running.driver import MOST_WAITING
from mctrace.collect.workers.ray_pool import QUEUE_DEPTH
from mctrace.collect.workers.worker_actor import MeasuringActor
from tests.chaos.findings import Findings, compare, opened, parts_repeated
from tests.chaos.fixture import LIMIT, Fixture, count_parts, wait_for

NUM_ACTORS = 2
ON_RAY = (f"--actors={NUM_ACTORS}",)
_ACTOR = f"ray::{MeasuringActor.__ray_metadata__.class_name}".encode()
"""How the command line of an actor's process begins."""


def kill_collect_actors(fixture: Fixture, num_kills: int, chance: random.Random) -> Findings:
    """One store after the other, until there were as many kills as asked for."""
    total, stores = Findings(), 0
    while total.kills < num_kills:
        store = fixture.folder / f"killed{stores}"
        kills = kill_until(fixture, store, num_kills - total.kills, chance)
        found = compare(opened(store), fixture.whole())
        found.kills, found.parts_repeated = kills, parts_repeated(opened(store))
        # No more is done twice than a kill could meet in flight or uncommitted.
        found.duplicated += found.parts_repeated > kills * (NUM_ACTORS * QUEUE_DEPTH + MOST_WAITING)
        total, stores = total + found, stores + 1
    return total


def kill_until(fixture: Fixture, store: Path, num_kills: int, chance: random.Random) -> int:
    """Kills `num_kills` times, or until all is measured; returns how many kills there were."""
    done = 0
    while True:
        driver = fixture.start(store, *ON_RAY)
        family: set[int] = set()
        while done < num_kills and wait_for_work(driver, store):
            family |= descendants(driver.pid)
            wait_for_moment(store, chance)
            victim = driver.pid if chance.random() < 0.4 else pick_actor(driver.pid, chance)
            if victim is not None and driver.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    done += 1
                if victim == driver.pid:
                    break
        wait_for(driver)
        end_orphans(family)
        if driver.returncode == 0:
            return done
        if driver.returncode != -signal.SIGKILL:
            fixture.fail()


def wait_for_work(driver: subprocess.Popen[bytes], store: Path) -> bool:
    """Until an actor lives and has written since; False when the driver ended first."""
    before = count_parts(store)
    deadline = time.monotonic() + LIMIT
    while driver.poll() is None and time.monotonic() < deadline:
        if count_parts(store) > before and actors_of(driver.pid):
            return True
        time.sleep(0.02)
    return False


def wait_for_moment(store: Path, chance: random.Random) -> None:
    """A little while; every other time until something is being written."""
    time.sleep(chance.random() * 0.5)
    if chance.random() < 0.5:
        deadline = time.monotonic() + 2
        places = [store / "staging", store / "ledger"]
        while time.monotonic() < deadline:
            if any(path.name.startswith((".", "tmp")) for place in places for path in _list(place)):
                return


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def actors_of(pid: int) -> list[int]:
    return sorted(one for one in descendants(pid) if _command(one).startswith(_ACTOR))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pick_actor(driver: int, chance: random.Random) -> int | None:
    actors = actors_of(driver)
    return chance.choice(actors) if actors else None


def end_orphans(family: set[int]) -> None:
    """Waits for what a killed driver had started; ends by its own number what stays."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(b"ray" in _command(pid) for pid in family):
        time.sleep(0.1)
    for pid in family:
        if b"ray" in _command(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
