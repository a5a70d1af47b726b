"""Model, corpora and command lines that the scenes share, and the store of a run that nothing disturbed."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mctrace.datasets.store.store import Store
from tests.chaos.findings import SceneError, opened
from tests.cli.flags import set_flags
from tests.models import save_tiny_model
from tests.stores.make import write_texts

LIMIT = 600
"""Seconds that any one step may take."""

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


@dataclass(frozen=True)
class Fixture:
    """A folder with a tiny model and a corpus; `per_document` trajectories are measured of each text."""

    folder: Path
    model: Path
    corpus: Path
    per_document: int

    @classmethod
    def set_up(cls, folder: Path, per_document: int) -> "Fixture":
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, save_tiny_model(folder / "model"), write_texts(folder / "corpus"), per_document)

    def flags(self, corpora: Sequence[Path] = ()) -> list[str]:
        """Model, corpus and settings of a collection, without its store."""
        settings = {**SETTINGS, "collect.trajectories_per_document": self.per_document}
        paths = [f"--corpus={path}" for path in corpora or [self.corpus]]
        return [f"--model={self.model}", *set_flags(settings), *paths]

    def start(
        self, store: Path, *flags: str, corpora: Sequence[Path] = (), log: str = "log"
    ) -> subprocess.Popen[bytes]:
        """`mctrace collect` into `store`, in a process of its own."""
        return self.start_command("collect", f"--store={store}", *self.flags(corpora), *flags, log=log)

    def start_command(self, *arguments: str, log: str = "log") -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("mctrace")
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [program, *arguments],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )

    def finish(self, process: subprocess.Popen[bytes], log: str = "log") -> None:
        if wait_for(process):
            self.fail(log)

    def fail(self, log: str = "log") -> None:
        raise SceneError(f"a command failed:\n{(self.folder / log).read_text()[-3000:]}")

    def whole(self) -> Store:
        """What a collection leaves that nobody disturbs; measured once."""
        place = self.folder / "whole"
        if not place.exists():
            self.finish(self.start(place, "--no-ray"))
        return opened(place)


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """The exit code. Raises SceneError when there is none after `LIMIT`."""
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise SceneError(f"{error.cmd[:3]} ran for more than {LIMIT} s") from error


def count_parts(store: Path, kind: str = "*") -> int:
    """Folders of parts, committed or not."""
    return sum(1 for _ in store.glob(f"parts/{kind}/*/*"))


def wait_for_trajectories(process: subprocess.Popen[bytes], store: Path, num_parts: int) -> None:
    """Until so many are written. Raises SceneError when the process ends before, or takes too long."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if count_parts(store, "trajectory") >= num_parts:
            return
        time.sleep(0.02)
    raise SceneError(f"no {num_parts} trajectories in {store}; exit code {process.poll()}")
