"""Control sections on a store that has drops, joint edits, attention and an audited run."""

import tarfile
from pathlib import Path

import pytest

from mctrace.analysis.report.page import Page
from mctrace.analysis.report.report import ReportParts, report_pages
from mctrace.datasets.store.store import open_store

STORE = Path(__file__).parents[3] / "stores" / "v1" / "store.tar.xz"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    folder = tmp_path_factory.mktemp("v1")
    with tarfile.open(STORE) as packed:
        packed.extractall(folder, filter="data")
    (found,) = folder.rglob("mctrace-store.json")
    return {page.key: page for page in report_pages(open_store(str(found.parent)).at(), ReportParts())}


def test_worth_and_damage_are_separated(pages: dict[str, Page]) -> None:
    (section,) = [section for section in pages["values"].sections if section.key == "controls"]
    *groups, diagonal = section.plots[0].figure["data"]
    assert sum(len(trace["x"]) for trace in groups) > 10
    assert diagonal["x"] == diagonal["y"]
    assert "% of gists did worse than nothing" in section.paragraphs[0]


def test_joint_edits_are_compared_with_their_sum(pages: dict[str, Page]) -> None:
    (section,) = [section for section in pages["values"].sections if section.key == "joints"]
    sets, _ = section.plots[0].figure["data"]
    assert len(sets["x"]) == len(sets["y"]) > 1
    assert "gap" in sets["text"][0]


def test_attention_mass_is_a_scorer_where_it_was_kept(pages: dict[str, Page]) -> None:
    scorers = {row[1] for row in pages["signal"].sections[1].tables[0].rows}
    assert scorers == {"recency", "attention mass", "a neighbouring stretch"}


def test_an_audited_run_shows_its_audit(pages: dict[str, Page]) -> None:
    runs = [page for key, page in pages.items() if key.startswith("run-")]
    checks = [
        [row[0] for row in table.rows]
        for page in runs
        for table in page.sections[0].tables
        if table.columns[0] == "Check"
    ]
    assert checks == [["calibration", "audit"]]
    assert all(page.sections[0].facts[4].value != "–" for page in runs)
