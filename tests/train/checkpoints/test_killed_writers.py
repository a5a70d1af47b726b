"""Run folders after a kill before any change to them: checkpoints are whole, and the next run tidies up."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mctrace.train.checkpoints.atomic_folder import tidy_folders, write_folder
from mctrace.train.checkpoints.manifest import check_manifest
from mctrace.train.checkpoints.retention import keep_best_and_last, step_folders
from mctrace.train.run_files import METRICS_FILE, claim_run_folder

Work = Callable[[Path], None]
FILES = ("config.json", "model.safetensors")


class Killed(BaseException):
    """A killed process changes nothing more, not even in its `finally`."""


def killed_before_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Work, work: Work
) -> Iterator[Path]:
    """The folder that `work` leaves when it is killed before its first, second, ... change."""
    for at in range(1000):
        folder, left = tmp_path / f"run{at}", [at]
        prepare(folder)

        def counted(change, left=left):
            def call(*arguments, **options):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return change(*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name in ("rename", "unlink", "rmdir", "mkdir"):
                patched.setattr(os, name, counted(getattr(os, name)))
            try:
                work(folder)
            except Killed:
                pass
            else:
                assert at > 5
                return
        yield folder


def save_steps(folder: Path, *steps: int) -> None:
    def write(place: Path, step: int, metrics: object) -> None:
        write_folder(place, lambda fresh: [(fresh / name).write_text(f"{step}") for name in FILES])

    save = keep_best_and_last(folder, write, keep_last=2, earlier=step_folders(folder))
    for step in steps:
        save("best", step, {})
        save(f"step_{step:07d}", step, {})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_whole(run: Path) -> None:
    for checkpoint in [*run.glob("best"), *step_folders(run)]:
        check_manifest(checkpoint, FILES)
        assert names(checkpoint) == {*FILES, "manifest.json"}


def test_checkpoints_are_whole_and_the_next_run_tidies_up(tmp_path, monkeypatch):
    cut = killed_before_every_change(
        tmp_path,
        monkeypatch,
        lambda folder: save_steps(folder, 1, 2),
        lambda folder: save_steps(folder, 3, 4),
    )
    for folder in cut:
        assert_whole(folder)
        tidy_folders(folder)
        assert "best" in names(folder)
        assert all(name == "best" or name.startswith("step_") for name in names(folder))
        last = max(int(path.name[5:]) for path in step_folders(folder))
        save_steps(folder, *range(last + 1, 5))
        assert names(folder) == {"best", "step_0000003", "step_0000004"}


def test_an_earlier_run_that_is_being_overwritten_is_never_taken_for_the_new_one(tmp_path, monkeypatch):
    config = "{}"

    def earlier(folder: Path) -> None:
        save_steps(folder, 7, 8)
        (folder / METRICS_FILE).write_text("{}\n")

    cut = killed_before_every_change(
        tmp_path, monkeypatch, earlier, lambda folder: claim_run_folder(folder, config, overwrite=True)
    )
    for folder in cut:
        assert_whole(folder)
        claim_run_folder(folder, config, overwrite=True)
        assert names(folder) == {"config.json"}
