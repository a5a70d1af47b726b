"""SIGKILL to every command that writes, at changes that seeded chance chooses, until it is let finish.

Each command runs once undisturbed, which says how many changes it makes and what it leaves. Then, over fresh
copies of what it starts from, it is killed up to three times in a row; after each kill what is there must be
whole, and when the command finishes it must have left what the undisturbed one left.
"""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.commands_that_write import CommandThatWrites
from tests.chaos.findings import Findings, SceneError
from tests.chaos.fixture import Fixture
from tests.chaos.killable import Ended, Kill, run_command

_MOST_IN_A_ROW = 3
_BY_THE_CLOCK = 0.3
"""Share of kills that come at any time of the command's."""
_MOST_DELAY = 0.03
"""Seconds after a change."""


def kill_command(
    command: CommandThatWrites, fixture: Fixture, num_kills: int, chance: random.Random
) -> Findings:
    """What was found in as many kills as asked for."""
    if not num_kills:
        return Findings()
    expected = fixture.folder / f"{command.name}-expected"
    undisturbed = _begin(command, fixture, expected)
    _refuse_failed(undisturbed, command, command.arguments, expected)
    _finish(command, expected)
    total, rounds = command.compare(expected, expected), 0
    while total.kills < num_kills:
        if rounds > 10 * num_kills:
            raise SceneError(f"{command.name} ends before it is killed, again and again")
        folder = fixture.folder / f"{command.name}-{rounds}"
        most = min(chance.randint(1, _MOST_IN_A_ROW), num_kills - total.kills)
        total += _round(command, fixture, folder, expected, undisturbed, most, chance)
        rounds += 1
    shutil.rmtree(expected)
    return total


def _round(
    command: CommandThatWrites,
    fixture: Fixture,
    folder: Path,
    expected: Path,
    undisturbed: Ended,
    most: int,
    chance: random.Random,
) -> Findings:
    """Up to `most` kills of one copy, and its end. The copy stays where something was found."""
    found = Findings()
    ended = _begin(command, fixture, folder, _choose(undisturbed, chance))
    while ended.was_killed:
        found.kills += 1
        found += command.look(folder)
        more = found.kills < most
        ended = run_command(command.again, folder, _choose(undisturbed, chance) if more else None)
    _refuse_failed(ended, command, command.again, folder)
    _finish(command, folder)
    found += command.compare(folder, expected)
    if found.is_clean():
        shutil.rmtree(folder)
    else:
        print(f"{command.name}: {folder.name} after {found.kills} kills: {found.bad()}", flush=True)
    return found


def _begin(command: CommandThatWrites, fixture: Fixture, folder: Path, kill: Kill | None = None) -> Ended:
    folder.mkdir()
    command.prepare(fixture, folder)
    return run_command(command.arguments, folder, kill)


def _finish(command: CommandThatWrites, folder: Path) -> None:
    for arguments in command.afterwards:
        _refuse_failed(run_command(arguments, folder), command, arguments, folder, codes=(0,))


def _choose(undisturbed: Ended, chance: random.Random) -> Kill:
    if chance.random() < _BY_THE_CLOCK:
        return Kill(0, chance.random() * undisturbed.seconds)
    at = chance.randint(1, undisturbed.num_changes)
    return Kill(at, chance.choice((0.0, chance.random() * _MOST_DELAY)))


def _refuse_failed(
    ended: Ended,
    command: CommandThatWrites,
    arguments: Sequence[str],
    folder: Path,
    codes: Sequence[int] | None = None,
) -> None:
    if ended.code not in (codes or command.codes):
        log = (folder / "output.log").read_text(errors="replace")[-2000:]
        raise SceneError(f"mctrace {' '.join(arguments)} ended with {ended.code} in {folder}:\n{log}")
