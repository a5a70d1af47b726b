"""Imports of a command: no deep-learning stack for help and SQL, no store for help."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "ray", "scipy", "datasketch", "tensorboard", "plotly", "prompt_toolkit")
STORE = ("duckdb", "pyarrow", "deltalake", "zarr")


def loaded(code: str, among: tuple[str, ...]) -> set[str]:
    """Those of `among` that a fresh interpreter has imported after `code`."""
    report = f"{code}\nimport sys\nprint(*(set({among!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_help_loads_neither_torch_nor_the_store():
    assert loaded("import mctrace.cli.app", (*HEAVY, *STORE)) == set()


@pytest.mark.parametrize("command", ["sql_query", "display.answer_table", "store_version"])
def test_a_query_loads_the_store_and_no_torch(command):
    found = loaded(f"import mctrace.cli.{command}", (*HEAVY, *STORE))
    assert "pyarrow" in found
    assert not found & set(HEAVY)


def test_an_import_of_torch_would_be_seen():
    assert loaded("import torch", HEAVY) >= {"torch"}
