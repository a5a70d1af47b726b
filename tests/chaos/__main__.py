"""`make chaos`: python -m tests.chaos [--quick] [--kills 200] [--seed 0] [--only SCENE].

The last line printed is one JSON object; the exit code is 0 only when nothing that must be 0 is more. A scene
that could not run is named in it under `skipped`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.attempts import attempt_jailbreaks, damage_files, give_bad_inputs
from tests.chaos.commands_that_write import CommandThatWrites, commands_that_write
from tests.chaos.disks import MountRefusedError, full_and_read_only_disk
from tests.chaos.findings import Findings, SceneError
from tests.chaos.fixture import Fixture
from tests.chaos.kill_collect_actors import kill_collect_actors
from tests.chaos.kill_commands import kill_command
from tests.chaos.stop_signals import stopped_by
from tests.chaos.sweep_during_collect import sweep_during_collect
from tests.chaos.two_drivers import near_duplicates, overlapping_corpora

_SHARE_ON_RAY = 0.15
"""of all kills"""


@dataclass(frozen=True)
class Chaos:
    """What is to be done, and with what."""

    folder: Path
    large: Fixture
    """for what has to meet a collection at work"""
    small: Fixture
    kills: int
    seed: int
    quick: bool

    @property
    def kills_on_ray(self) -> int:
        return max(1, round(_SHARE_ON_RAY * self.kills))

    def chance(self, name: str) -> random.Random:
        """A scene's own, so that it does the same alone."""
        return random.Random(f"{self.seed} {name}")


def kill_all_commands(chaos: Chaos) -> Iterator[tuple[str, Findings]]:
    """Two commands at a time, each with its share of the kills."""
    commands, left = commands_that_write(chaos.small), chaos.kills - chaos.kills_on_ray
    chaos.small.whole()

    def kill(item: tuple[int, CommandThatWrites]) -> tuple[str, Findings]:
        number, command = item
        share = left // len(commands) + (number < left % len(commands))
        try:
            return command.name, kill_command(command, chaos.small, share, chaos.chance(command.name))
        except SceneError as error:
            return command.name, _broken(command.name, error)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(kill, enumerate(commands))


def _kill_on_ray(chaos: Chaos) -> Findings:
    return kill_collect_actors(chaos.large, chaos.kills_on_ray, chaos.chance("on Ray"))


SCENES: dict[str, Callable[[Chaos], Findings]] = {
    "collect on Ray": _kill_on_ray,
    "two drivers": lambda chaos: overlapping_corpora(chaos.large),
    "near-duplicates": lambda chaos: near_duplicates(chaos.small),
    "SIGTERM": lambda chaos: stopped_by(chaos.large, signal.SIGTERM),
    "Ctrl-C": lambda chaos: stopped_by(chaos.large, signal.SIGINT),
    "disks": lambda chaos: full_and_read_only_disk(chaos.large),
    "sweep during collect": lambda chaos: sweep_during_collect(chaos.large),
    "damages": lambda chaos: damage_files(chaos.folder, quick=chaos.quick, seed=chaos.seed),
    "jail": lambda chaos: attempt_jailbreaks(chaos.folder),
    "bad inputs": lambda chaos: give_bad_inputs(chaos.folder, quick=chaos.quick, seed=chaos.seed),
}
_COMMANDS = "commands"


def main() -> None:
    arguments = _parse()
    # Shells ignore Ctrl-C for what they start in the background, and commands would inherit that from here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Read by the processes that are started from here.
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    folder = Path(tempfile.mkdtemp(prefix="mctrace-chaos-"))
    per_document = arguments.per_document or (6 if arguments.quick else 16)
    chaos = Chaos(
        folder,
        Fixture.set_up(folder / "large", per_document),
        Fixture.set_up(folder / "small", 1),
        kills=arguments.kills or (10 if arguments.quick else 200),
        seed=arguments.seed,
        quick=arguments.quick,
    )
    started, found, skipped = time.monotonic(), dict[str, Findings](), dict[str, str]()
    for title, findings in _run(chaos, arguments.only or [_COMMANDS, *SCENES], skipped):
        found[title] = findings
        done = {key: value for key, value in asdict(findings).items() if value}
        print(f"{time.monotonic() - started:5.0f} s  {title}: {done or 'nothing found'}", flush=True)
    total = sum(found.values(), Findings())
    if total.is_clean():
        shutil.rmtree(folder)
    else:
        print(f"what is left of it is in {folder}")
    answer = {
        **asdict(total),
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started),
        "kills_by_command": {title: one.kills for title, one in found.items() if one.kills},
        "skipped": skipped,
    }
    print(json.dumps(answer), flush=True)
    sys.exit(not total.is_clean())


def _run(chaos: Chaos, chosen: list[str], skipped: dict[str, str]) -> Iterator[tuple[str, Findings]]:
    if _COMMANDS in chosen:
        yield from kill_all_commands(chaos)
    for title, scene in SCENES.items():
        if title in chosen:
            try:
                yield title, scene(chaos)
            except MountRefusedError as reason:
                skipped[title] = str(reason)
            except SceneError as error:
                yield title, _broken(title, error)


def _broken(title: str, error: SceneError) -> Findings:
    print(f"{title}: {error}", flush=True)
    return Findings(unclear=1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every scene at small size, in minutes")
    parser.add_argument("--kills", type=int, help="200, or 10 with --quick; one in seven on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-document", type=int, help="trajectories of each text, 16, or 6 with --quick")
    parser.add_argument("--only", action="append", choices=[_COMMANDS, *SCENES], help="may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
