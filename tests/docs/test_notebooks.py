"""The notebooks run from top to bottom, in their order, on the real model."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
ORDER = ("first_labels", "values_in_sql", "train_and_judge")
"""the later ones read what the first has measured"""
MOST_SECONDS = 1500


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_in_the_order_and_holds_no_output():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(ORDER)
    for name in ORDER:
        notebook = read(name)
        nbformat.validate(notebook)
        assert notebook.cells[0].cell_type == "markdown"
        assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def said(notebook: nbformat.NotebookNode) -> str:
    """All that its cells have printed or answered."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") or output["data"].get("text/plain", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.real_model
def test_they_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    answers = {}
    for name in ORDER:
        notebook = read(name)
        NotebookClient(notebook, timeout=MOST_SECONDS, resources={"metadata": {"path": tmp_path}}).execute()
        answers[name] = said(notebook)
    assert "<Traces" in answers["first_labels"]
    assert "32 tokens:" in answers["values_in_sql"]
    assert "recency" in answers["train_and_judge"]
    assert (tmp_path / "lensnet" / "best").is_dir()
    assert (tmp_path / "report.html").stat().st_size > 1e6
