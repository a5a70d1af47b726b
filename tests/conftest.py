"""Shared by the tests of several rooms: a tiny base model on disk, a configuration that uses it, commands."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import Chromium

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

Answer = tuple[int, str, str]
"""exit code, output, errors"""


@pytest.fixture
def call_mctrace(monkeypatch, capsys) -> Callable[..., Answer]:
    """Runs `mctrace` with these arguments in this process; the process keeps its own SIGTERM handler."""
    from mctrace.cli import app

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["mctrace", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen short texts, unlike enough not to be near-duplicates."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(14):
        words = [f"{chr(97 + (i * 7 + j * j) % 26)}{(i + 3) * (j + 5) % 97}" for j in range(140)]
        (folder / f"text{i:02d}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_model_folder: Path, corpus_folder: Path) -> dict[str, object]:
    """Dotted keys of a run that takes seconds: K = 4, both gist levels, both actions."""
    return {
        "model.name": str(tiny_model_folder),
        "corpus.paths": (str(corpus_folder),),
        "corpus.min_tokens": 128,
        "corpus.max_tokens": 320,
        "corpus.validation_fraction": 0.25,
        "corpus.test_fraction": 0.25,
        "tree.block_size": 4,
        "collect.horizon": 16,
        "collect.cursors_per_trajectory": 3,
        "collect.cursor_stride": 4,
        "collect.window": 128,
        "collect.recency_level_tokens": (16, 48),
        "collect.train_wc_length": 48,
        "collect.protected_tail": 8,
        "collect.max_actions": 8,
    }


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A real browser: skipped without it on a person's machine, failed without it where CI is set."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "chromium is not installed, so nobody has looked at the pages"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    running = Chromium(found, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()
