"""A report on the labels of a condition, and on labels that are gradient estimates."""

from datetime import UTC, datetime

import pytest

from mctrace.analysis.report.page import Section
from mctrace.analysis.report.report import ReportParts, build_report, report_pages
from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.store.store import Store, create_store
from mctrace.errors import InputError
from tests.analysis.synthetic import BY_HAND, write_store
from tests.datasets.synthetic import add_document, add_trajectory, effect

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("chosen") / "store", BY_HAND)


def sections_of(store: Store, where: str = "") -> dict[str, Section]:
    pages = report_pages(store.at(), ReportParts(where=where))
    return {section.key: section for page in pages for section in page.sections}


def test_every_number_is_of_the_labels_that_meet_the_condition(store):
    found = sections_of(store, "action = 'collapse' and entry_level = 0")
    (row,) = found["value"].tables[0].rows
    assert row[:4] == ["collapse, level 0", "2", "1", "+0.2500"]
    (lag, _) = found["horizon"].plots
    assert [trace["name"] for trace in lag.figure["data"]] == ["collapse, level 0"]
    assert {row[3] for row in found["top"].tables[0].rows} == {"collapse, level 0"}
    actions = [action for one in found["snapshots"].snapshots for action in one["actions"]]
    assert {action["kind"] for action in actions if action["value"] is not None} == {"collapse"}


def test_a_condition_may_ask_what_the_corpus_said(store):
    found = sections_of(
        store, "document_id in (select document_id from documents where (metadata->>'year')::int = 2024)"
    )
    (row,) = found["origin"].tables[0].rows
    assert row[1] == "train"


def test_the_page_says_which_labels_it_is_on_and_the_store_stays_as_it_is(store):
    page = build_report(store.at(), ReportParts(where="split = 'test'"), NOON)
    assert "labels where split = &#39;test&#39;" in page
    assert store.at().version == 1
    with pytest.raises(InputError, match="expected one SQL condition"):
        report_pages(store.at(), ReportParts(where="true; drop table x"))
    with pytest.raises(InputError, match="no rows"):
        report_pages(store.at(), ReportParts(where="value_of_detail > 100"))


def test_a_condition_narrows_a_derived_dataset_too(store):
    derive(
        store, store.at(), "expands", Derivation(Recipe("r", "select * from labels where action = 'expand'"))
    )
    version = store.at().read_through("expands")
    pages = report_pages(version, ReportParts(where="node_level = 2"))
    value = next(s for page in pages for s in page.sections if s.key == "value")
    assert [row[0] for row in value.tables[0].rows] == ["expand, level 2"]


def test_gradient_estimates_alone_make_every_section(tmp_path):
    """They are means over a horizon: nothing may ask for their tokens, for halves or for a standard error."""
    store = create_store(str(tmp_path / "store"))
    for seed, (name, split) in enumerate([("a", "train"), ("b", "test")]):
        add_document(store, name, split, seed)
        estimated = {"estimator": "gradient", "gradient_stretches": [4]}
        effects = [effect("collapse", 1, i, 32, [0.25 * (i - 4)] * 4, **estimated) for i in (4, 5, 6)]
        levels = (2, 2, 2, 2, 0, 0, 0, 0)
        add_trajectory(store, f"t-{name}", name, effects, levels=levels, cursors=(32,))
    found = sections_of(store)
    assert [row[:3] for row in found["value"].tables[0].rows] == [["collapse, level 0", "6", "2"]]
    (said,) = found["signal"].paragraphs
    assert "gradient estimates" in said
    assert "no labels" not in said
    assert "Over the horizon" in found["horizon"].title
    assert build_report(store.at(), ReportParts(), NOON).endswith("</html>")
