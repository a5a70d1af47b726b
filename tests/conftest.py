"""What several rooms' tests share: a tiny base model on disk and a configuration that uses it."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


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
