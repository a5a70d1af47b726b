"""`make chaos`: kill `mctrace collect` again and again, and see what the store has to say about it.

Several Ray actors measure a tiny model into one store while seeded chance sends SIGKILL to the driver or to
an actor, half of the time in the middle of a write. The same command is started again until enough kills are
done, then left alone to finish. What it leaves must be what a run without any kill leaves. Then two drivers
at once, SIGTERM and Ctrl-C, and, where this user may mount one, a full and a read-only disk.

The last line printed is one JSON object; the exit code is 0 only when nothing was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mctrace.collect.running.driver import MOST_WAITING
from mctrace.collect.running.ray_pool import QUEUE_DEPTH
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep.verify import verify
from mctrace.progress import Silent
from tests.models import save_tiny_model
from tests.stores.make import write_texts

NUM_ACTORS = 2
ACTOR = b"ray::WorkerActor"
_LIMIT = 600
"""seconds that any one step may take"""

SETTINGS: dict[str, object] = {
    "corpus.min_tokens": 96,
    "corpus.max_tokens": 200,
    "corpus.validation_fraction": 0.25,
    "corpus.test_fraction": 0.25,
    "tree.block_size": 4,
    "collect.horizon": 16,
    "collect.cursors_per_trajectory": 3,
    "collect.cursor_stride": 4,
    "collect.window": 96,
    "collect.recency_level_tokens": [16, 48],
    "collect.train_wc_length": 32,
    "collect.protected_tail": 8,
    "collect.max_actions": 16,
    "collect.batch_tokens": 256,
    "ray.max_attempts": 1000,
}


@dataclass
class Findings:
    """What `make chaos` prints."""

    kills: int = 0
    lost: int = 0
    """planned parts that the ledger lacks"""
    duplicated: int = 0
    """parts a reader sees twice"""
    dangling: int = 0
    """whatever `mctrace verify` finds"""
    rows_differ: int = 0
    """labels that are missing, extra, or off by more than the recorded noise floor"""
    parts_repeated: int = 0
    """written more than once because a kill came between the writing and the commit"""

    def is_clean(self) -> bool:
        """Nothing is wrong, and no more was done twice than a kill could meet in flight or uncommitted."""
        too_often = self.parts_repeated > self.kills * (NUM_ACTORS * QUEUE_DEPTH + MOST_WAITING)
        return not (self.lost or self.duplicated or self.dangling or self.rows_differ) and (
            self.kills == 0 or not too_often
        )


@dataclass(frozen=True)
class Scene:
    """A model, a corpus, and the command that measures one with the other."""

    folder: Path
    model: Path
    corpus: Path
    per_document: int

    @classmethod
    def set_up(cls, folder: Path, per_document: int) -> "Scene":
        return cls(folder, save_tiny_model(folder / "model"), write_texts(folder / "corpus"), per_document)

    def start(
        self, store: Path, *flags: str, corpora: Sequence[Path] = (), log: str = "log"
    ) -> subprocess.Popen[bytes]:
        settings = {**SETTINGS, "collect.trajectories_per_document": self.per_document}
        assignments = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        paths = [f"--corpus={path}" for path in corpora or [self.corpus]]
        program = Path(sys.executable).with_name("mctrace")
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [
                    program,
                    "collect",
                    f"--store={store}",
                    f"--model={self.model}",
                    *assignments,
                    *paths,
                    *flags,
                ],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )

    def finish(self, driver: subprocess.Popen[bytes]) -> None:
        if driver.wait(_LIMIT):
            raise SystemExit(f"a collect failed:\n{(self.folder / 'log').read_text()[-3000:]}")


ON_RAY = (f"--actors={NUM_ACTORS}",)


def kill_until(scene: Scene, store: Path, num_kills: int, chance: random.Random) -> int:
    """Kills `num_kills` times, or until all is measured; returns how many kills there were."""
    done = 0
    while True:
        driver = scene.start(store, *ON_RAY)
        family: set[int] = set()
        while done < num_kills and wait_for_work(driver, store):
            family |= descendants(driver.pid)
            wait_for_moment(store, chance)
            victim = driver.pid if chance.random() < 0.4 else pick_actor(driver.pid, chance)
            if victim is not None and driver.poll() is None:
                os.kill(victim, signal.SIGKILL)
                done += 1
                if victim == driver.pid:
                    break
        driver.wait(_LIMIT)
        end_orphans(family)
        if driver.returncode == 0:
            return done
        if driver.returncode != -signal.SIGKILL:
            raise SystemExit(f"a collect failed:\n{(scene.folder / 'log').read_text()[-3000:]}")


def wait_for_work(driver: subprocess.Popen[bytes], store: Path) -> bool:
    """Until an actor lives and has written since; False when the driver ended first."""
    before = count_parts(store)
    deadline = time.monotonic() + _LIMIT
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


def count_parts(store: Path) -> int:
    return sum(1 for _ in store.glob("parts/*/*/*"))


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
    return sorted(one for one in descendants(pid) if _command(one).startswith(ACTOR))


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
            os.kill(pid, signal.SIGKILL)


def labels_of(store: Store) -> dict[tuple[object, ...], float]:
    keys = ("trajectory_id", "cursor", "action", "node_level", "node_index", "estimator")
    rows = fetch_rows(connect(store.at()), "from labels")
    return {tuple(row[key] for key in keys): row["delta_nll"] for row in rows}


def noise_floor(*stores: Store) -> float:
    floors = [
        row["noise_floor"]
        for store in stores
        for row in fetch_rows(
            connect(store.at()), "select noise_floor from runs where noise_floor is not null"
        )
    ]
    return max(max(floor.values()) for floor in floors)


def compare(store: Store, expected: Store) -> Findings:
    """What `store` lacks, has twice, has damaged or has otherwise than `expected`."""
    version = store.at()
    wanted = {c.part.part_id for c in expected.at().parts if c.part.kind != "run"}
    counted = Counter(
        row["trajectory_id"] for row in fetch_rows(connect(version), "from stored_trajectories")
    )
    found, right = labels_of(store), labels_of(expected)
    tolerance = noise_floor(store, expected)
    differing = set(found) ^ set(right)
    differing |= {key for key in set(found) & set(right) if abs(found[key] - right[key]) > tolerance}
    root = Path(store.location.root)
    return Findings(
        lost=len(wanted - version.part_ids),
        duplicated=sum(count - 1 for count in counted.values()),
        dangling=len(list(verify(version, quick=False, progress=Silent()))),
        rows_differ=len(differing),
        parts_repeated=len(list(root.glob("parts/trajectory/*/*"))) - len(counted),
    )


def two_drivers(scene: Scene) -> Findings:
    """Two at once over corpora that overlap, against one over both."""
    texts = sorted(scene.corpus.iterdir())
    store = scene.folder / "two"
    drivers = [scene.start(store, "--no-ray", corpora=chosen) for chosen in (texts[:10], texts[4:])]
    for driver in drivers:
        scene.finish(driver)
    alone = scene.folder / "one-by-one"
    for chosen in (texts[:10], texts[4:]):
        scene.finish(scene.start(alone, "--no-ray", corpora=chosen))
    return compare(open_store(str(store)), open_store(str(alone)))


def stopped_by(scene: Scene, expected: Store, signum: signal.Signals) -> Findings:
    """A driver that is asked to stop records that, keeps what it has, and is finished by the same command."""
    store = scene.folder / f"stopped-{signum.name}"
    driver = scene.start(store, *ON_RAY)
    if not wait_for_work(driver, store):
        raise SystemExit(f"a collect failed:\n{(scene.folder / 'log').read_text()[-3000:]}")
    family = descendants(driver.pid)
    driver.send_signal(signum)
    code = driver.wait(_LIMIT)
    end_orphans(family)
    outcomes = [row["outcome"] for row in fetch_rows(connect(open_store(str(store)).at()), "from runs")]
    scene.finish(scene.start(store, *ON_RAY))
    found = compare(open_store(str(store)), expected)
    found.lost += outcomes != ["interrupted"] or code == 0
    return found


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True,
                   capture_output=True)  # fmt: skip
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def full_and_read_only_disk(scene: Scene, expected: Store) -> Findings:
    """A disk that fills up, and one that can only be read: one line says so, and nothing there is hurt."""
    with small_disk(scene.folder / "disk", "700k") as disk:
        store, unheard = disk / "store", 0
        for options, words in (("size=700k", "No space left"), ("size=64m,ro", "Read-only file system")):
            remount(disk, options)
            driver = scene.start(store, "--no-ray", log="disk.log")
            code = driver.wait(_LIMIT)
            log = (scene.folder / "disk.log").read_text()
            unheard += code != 1 or words not in log or "Traceback" in log
            unheard += len(list(verify(open_store(str(store)).at(), quick=False, progress=Silent())))
        remount(disk, "size=64m,rw")
        scene.finish(scene.start(store, "--no-ray"))
        found = compare(open_store(str(store)), expected)
    found.lost += unheard
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-document", type=int, default=16, help="trajectories of each document")
    parser.add_argument("--only-kills", action="store_true", help="none of the other scenes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scene = Scene.set_up(Path(name), arguments.per_document)
        scene.finish(scene.start(scene.folder / "whole", "--no-ray"))
        whole = open_store(str(scene.folder / "whole"))
        scenes: dict[str, Findings] = {}
        chance, left = random.Random(arguments.seed), arguments.kills
        while left > 0:  # one store after the other, until there were as many kills as asked for
            killed = scene.folder / f"killed{len(scenes)}"
            kills = kill_until(scene, killed, left, chance)
            left -= kills
            scenes[killed.name] = compare(open_store(str(killed)), whole)
            scenes[killed.name].kills = kills
        if not arguments.only_kills:
            scenes["two drivers"] = two_drivers(scene)
            for signum in (signal.SIGTERM, signal.SIGINT):
                scenes[signum.name] = stopped_by(scene, whole, signum)
            try:
                scenes["disk"] = full_and_read_only_disk(scene, whole)
            except subprocess.CalledProcessError:
                print("full and read-only disk: left out, this user may not mount one")
    for what, found in scenes.items():
        print(f"{what}: {asdict(found)}")
    total = {key: sum(asdict(found)[key] for found in scenes.values()) for key in asdict(Findings())}
    print(json.dumps(total))
    sys.exit(not all(found.is_clean() for found in scenes.values()))


if __name__ == "__main__":
    main()
