"""Examples of the pages run, on a small store, a tiny base model and a random LensNet.

Python and SQL blocks run unless `<!-- not run: reason -->` stands before them; so do the commands that need a
store and no base model. The blocks of a page share their names, in order.
"""

import tarfile

import pytest
import torch

from mctrace.attribution.text_model import TextModel
from mctrace.datasets.sql.notebook import open_traces
from mctrace.datasets.store.provenance import Provenance
from tests.collect.lensnets import save_random_lensnet
from tests.docs.pages import PAGES, ROOT, blocks_of, commands_of, name_of
from tests.models import VOCABULARY, WIDTH, save_tiny_model, tiny_model

READING = ("sql", "log", "verify", "compact", "derive", "export")


def pages_with(language: str) -> list[object]:
    found = [page for page in PAGES if any(block.runs for block in blocks_of(page, language))]
    return [pytest.param(page, id=name_of(page)) for page in found]


def reading_commands(page) -> list[tuple[int, list[str]]]:
    return [
        (line, arguments)
        for line, arguments in commands_of(page, "mctrace")
        if arguments[0] in READING and arguments != ["sql"] and "--store" not in arguments
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the store `traces`, also called STORE, and a checkpoint."""
    newest = max((ROOT / "tests" / "stores").glob("v*/store.tar.xz"))
    with tarfile.open(newest) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "store").rename(tmp_path / "traces")
    (tmp_path / "STORE").symlink_to("traces")
    (tmp_path / "analysis").symlink_to(ROOT / "analysis")
    provenance = Provenance("model", "tokenizer", "mean", "float32", block_size=32, max_level=2)
    save_random_lensnet(tmp_path / "runs" / "lensnet" / "best", provenance, WIDTH)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_of_blocks_that_are_not_run_are_there(page):
    for block in blocks_of(page, "python"):
        lines = [
            line for line in block.text.splitlines() if line.startswith(("from mctrace", "import mctrace"))
        ]
        exec("\n".join(line for line in lines if not line.endswith("(")), {})


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_runs(page, folder):
    torch.manual_seed(0)
    names: dict[str, object] = {
        "model": tiny_model(),
        "text_model": TextModel.load(str(save_tiny_model(folder / "model"))),
        "tokens_T": torch.randint(VOCABULARY, (400,)),
    }
    for block in blocks_of(page, "python"):
        if block.runs:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


@pytest.mark.parametrize("page", pages_with("sql"))
def test_sql_answers(page, folder):
    traces = open_traces("traces")
    for block in blocks_of(page, "sql"):
        assert not block.runs or traces.arrow(block.text).num_rows, f"{page}:{block.line}: no rows"


@pytest.mark.parametrize("page", [pytest.param(p, id=name_of(p)) for p in PAGES if reading_commands(p)])
def test_commands_that_read_a_store_end_well(page, folder, call_mctrace):
    for line, arguments in reading_commands(page):
        code, _, errors = call_mctrace(*arguments)
        assert code == 0, f"{page}:{line}: {errors}"
