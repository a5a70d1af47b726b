"""A disk that fills up during a collection, and one that can only be read."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.findings import Findings, compare, opened, problems
from tests.chaos.fixture import Fixture, wait_for


class MountRefusedError(Exception):
    """This user may not mount a disk."""


def full_and_read_only_disk(fixture: Fixture) -> Findings:
    """One line says so, nothing there is hurt, and with room again the same command finishes.

    Raises MountRefusedError.
    """
    unclear = dangling = 0
    with _small_disk(fixture.folder / "disk", "700k") as disk:
        store = disk / "store"
        for options, words in (("size=700k", "No space left"), ("size=64m,ro", "Read-only file system")):
            _remount(disk, options)
            log = f"disk-{words[:2]}.log"
            code = wait_for(fixture.start(store, "--no-ray", log=log))
            output = (fixture.folder / log).read_text()
            unclear += code != 1 or words not in output or "Traceback" in output
            dangling += len(problems(opened(store)))
        _remount(disk, "size=64m,rw")
        fixture.finish(fixture.start(store, "--no-ray"))
        found = compare(opened(store), fixture.whole())
    return found + Findings(unclear=unclear, dangling=dangling)


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise MountRefusedError("this user may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
