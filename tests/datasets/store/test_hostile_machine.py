"""Full disks, modes that forbid, paths that are too long: one line each, and a store that is whole."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mctrace.datasets.store.store import open_store
from mctrace.datasets.upkeep.verify import verify
from mctrace.progress import Silent

pytestmark = pytest.mark.slow  # some thirty processes

MCTRACE = "from mctrace.cli.app import main; main()"

STRANGER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2):  # to pass over modes, as root may
    if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):
        sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Goes on as somebody for whom modes count."""

SMALL_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from mctrace.cli.app import main
main()
"""
"""As on a disk that is full: the file system takes no more bytes of a file."""


def refusal(*arguments: str, cwd: Path, program: Sequence[str] = ("-c", MCTRACE)) -> str:
    """The one line that a command ends with."""
    done = subprocess.run(
        [sys.executable, *program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("capabilities cannot be dropped here")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert len(lines) == 1, done.stderr
    return lines[0]


def problems(folder: Path) -> list[tuple[str, str]]:
    version = open_store(str(folder)).at()
    return [(p.place, p.what) for p in verify(version, quick=False, progress=Silent())]


WRITING = {
    "derive": ("derive", "some", "--recipe", "significant"),
    "compact": ("compact",),
    "export": ("export", "out"),
    "init": ("init",),
    "sweep": ("verify", "--sweep"),
}


@pytest.mark.parametrize(
    ("command", "size", "reason"),
    [
        ("derive", 3000, "File too large"),
        ("compact", 3000, "File too large"),
        ("export", 3000, "File too large"),
        ("compact", 0, "No usable temporary directory"),
        ("init", 0, "File too large"),
        ("sweep", 0, "No usable temporary directory"),
    ],
)
def test_a_full_disk_is_one_line_and_nothing_is_half_there(store, tmp_path, command, size, reason):
    folder = Path(store.location.root)
    before = store.at()
    where = str(tmp_path / "new" if command == "init" else folder)
    said = refusal(
        *WRITING[command], "--store", where, cwd=tmp_path, program=("-c", SMALL_FILES.format(size=size))
    )
    assert reason in said
    assert store.at().part_ids == before.part_ids
    assert problems(folder) == []
    assert not any((folder / "staging").iterdir())
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "new", "pipeline.toml"}


def of_somebody_else(folder: Path, mode: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(mode if path.is_dir() else mode & 0o666)
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)


@pytest.mark.parametrize("command", [name for name in WRITING if name != "init"])
def test_who_may_only_read_is_told_when_writing(store, tmp_path, command):
    of_somebody_else(Path(store.location.root), 0o555)
    outside = tmp_path / "mine"
    outside.mkdir()
    arguments = [*WRITING[command], "--store", store.location.root]
    if command == "export":
        arguments[1] = str(Path(store.location.root) / "out")
    program = ("-c", STRANGER, "-c", MCTRACE)
    assert "Permission denied" in refusal(*arguments, cwd=outside, program=program)


READING = {
    "tokens": ("sql", "select count(*) from document_tokens, labels"),
    "verify": ("verify",),
    "export": ("export", "mine"),
}


@pytest.mark.parametrize("command", READING)
def test_who_may_only_read_can_do_all_reading(store, tmp_path, command):
    of_somebody_else(Path(store.location.root), 0o555)
    outside = tmp_path / "mine"
    outside.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, "-c", MCTRACE, *READING[command], "--store", store.location.root],
        cwd=outside, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("capabilities cannot be dropped here")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("verify", ""),
        ("verify", "ledger"),
        ("tokens", "ledger/_delta_log"),
        ("verify", "head"),
        ("tokens", "parts"),
        ("export", "parts"),
        ("export", "mctrace-store.json"),
    ],
)
def test_who_may_not_read_is_told_what(store, tmp_path, command, what):
    path = Path(store.location.root) / what
    of_somebody_else(path, 0o000)
    try:
        program = ("-c", STRANGER, "-c", MCTRACE)
        outside = tmp_path / "mine"
        outside.mkdir()
        said = refusal(*READING[command], "--store", store.location.root, cwd=outside, program=program)
        assert store.location.root in said
    finally:
        of_somebody_else(path, 0o755)


LONG = "x" * 300
DEEP = "/".join(["y" * 200] * 30)


@pytest.mark.parametrize("path", [LONG, DEEP], ids=["NAME_MAX", "PATH_MAX"])
@pytest.mark.parametrize("arguments", [("log", "--store"), ("init", "--store"), ("export",)], ids=" ".join)
def test_a_path_that_is_too_long_is_one_line(store, tmp_path, arguments, path):
    more = ("--store", store.location.root) if arguments == ("export",) else ()
    assert refusal(*arguments, path, *more, cwd=tmp_path)


def test_an_export_may_have_as_long_a_name_as_there_is(store, tmp_path):
    subprocess.run(
        [sys.executable, "-c", MCTRACE, "export", "z" * 255, "--store", store.location.root],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / ("z" * 255) / "README.md").exists()
