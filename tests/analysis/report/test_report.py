"""The report: every section, data never becomes markup, nothing is fetched."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from mctrace.analysis.report.page import Page, Plot, Section, Table, clean, render_pages
from mctrace.analysis.report.report import ReportParts, build_report, report_pages
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from tests.analysis.synthetic import (
    BY_HAND,
    ODD_SOURCE,
    SCRIPT_SOURCE,
    Measured,
    Trajectory,
    add_trajectories,
    write_checkpoint,
    write_run,
    write_store,
)

TITLES = {
    "Signal and noise": ["Signal against noise", "Scorers beside the ceiling"],
    "Value of detail": [
        "Value of detail by level and action",
        "Value of detail against distance",
        "Over the horizon",
        "Origin of value",
        "A document over time",
        "Most valuable labels",
    ],
    "Targets": ["Literal against priced targets"],
    "Snapshots": ["Single snapshots"],
    "Comparison": ["Version 0 and version 1 of the store"],
    "Store": ["Contents of the store"],
    "run-1": ["Run run-1", "Signal against noise", "Value of detail by level and action"],
    "training": ["Training curves", "Held-out evaluation"],
}
NUM_SCRIPTS = 4
"""pages, plotly.js, plots and snapshots"""
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Elements(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def inside(self, tag: str) -> list[str]:
        return [text for found, text in self.texts if found == tag]


@pytest.fixture(scope="module")
def parts(store: Store, tmp_path_factory: pytest.TempPathFactory) -> ReportParts:
    run = tmp_path_factory.mktemp("run") / "training"
    run.mkdir()
    return ReportParts(runs=[write_run(run)], compared=store.at(0))


@pytest.fixture(scope="module")
def pages(store: Store, parts: ReportParts) -> list[Page]:
    return report_pages(store.at(), parts)


@pytest.fixture(scope="module")
def page(store: Store, parts: ReportParts) -> str:
    return build_report(store.at(), parts, NOON)


def all_sections(pages: list[Page]) -> list[Section]:
    return [section for page in pages for section in page.sections]


def all_plots(pages: list[Page]) -> Iterator[Plot]:
    for section in all_sections(pages):
        yield from section.plots
        yield from section.folded_plots


def test_pages_and_sections_come_in_reading_order(pages: list[Page]) -> None:
    assert {page.title: [section.title for section in page.sections] for page in pages} == TITLES
    assert len({page.key for page in pages}) == len(pages)
    assert all(section.plots or section.tables or section.snapshots for section in all_sections(pages))


def test_every_plot_has_a_reading_and_a_sample_size(pages: list[Page]) -> None:
    for plot in all_plots(pages):
        assert plot.reading.endswith("."), plot.title
        assert re.search(r"\d", plot.counted), plot.title


def test_plotly_accepts_every_figure(pages: list[Page]) -> None:
    for plot in all_plots(pages):
        assert go.Figure(plot.figure).data, plot.title


def test_signal_comes_first_with_its_numbers(pages: list[Page]) -> None:
    signal = pages[0].sections[0]
    assert [(fact.name, fact.value) for fact in signal.facts][1:4] == [
        ("snapshots", "3"), ("actions measured", "10"), ("labels", "12"),
    ]  # fmt: skip
    assert "At 32 tokens, 66.7% of 12 labels" in signal.paragraphs[1]
    assert signal.tables[0].rows[0][:6] == ["all actions", "12", "2", "8", "66.7%", "63.6%"]
    shares, stability = signal.plots
    assert [trace["name"] for trace in shares.figure["data"]] == [
        "all actions", "expand, level 1", "expand, level 2", "collapse, level 0", "collapse, level 1",
        "halves of a horizon that contradict",
    ]  # fmt: skip
    assert stability.figure["data"][0]["y"] == pytest.approx([0.8])


def test_without_labels_every_section_is_one_sentence(stores_without_labels: list[Store]) -> None:
    for store in stores_without_labels:
        pages = {page.key: page for page in report_pages(store.at(), ReportParts())}
        assert list(pages)[:5] == ["signal", "values", "targets", "snapshots", "store"]
        for key in ("signal", "values", "targets", "snapshots"):
            for section in pages[key].sections:
                assert len(section.paragraphs) == 1
                assert not section.plots
                assert not section.snapshots
        assert "plotly.js v" not in build_report(store.at(), ReportParts(), NOON)


def test_an_empty_store_is_one_sentence(stores_without_labels: list[Store]) -> None:
    empty, _, failed = (
        next(page for page in report_pages(store.at(), ReportParts()) if page.key == "store").sections[0]
        for store in stores_without_labels
    )
    assert "is empty" in empty.paragraphs[0]
    assert failed.notes == ["Failed, and so without a label: 1 action."]


def test_a_run_has_a_page_with_its_own_numbers_only(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", BY_HAND)
    add_trajectories(store, [Trajectory("d", "train", [Measured("expand", 1, 4, 0.5)])], "run-2")
    pages = {page.title: page for page in report_pages(store.at(), ReportParts())}
    labels = {title: pages[title].sections[0].facts[3].value for title in ("run-1", "run-2")}
    assert labels == {"run-1": "12", "run-2": "1"}
    (documents,) = pages["run-2"].sections[0].tables
    assert [row[0] for row in documents.rows] == ["d"]
    assert pages["run-1"].group == "Collection runs"


def test_two_versions_are_compared(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", BY_HAND)
    add_trajectories(store, [Trajectory("d", "train", [Measured("expand", 1, 4, 0.5)])], "run-2")
    (section,) = next(
        page
        for page in report_pages(store.at(1), ReportParts(compared=store.at()))
        if page.key == "comparison"
    ).sections
    assert section.title == "Version 1 and version 2 of the store"
    counts = {row[0]: row[1:] for row in section.tables[0].rows}
    assert counts["Labels"] == ["12", "13"]
    assert counts["Runs"] == ["1", "2"]
    signal, spread = section.plots
    assert [trace["name"] for trace in signal.figure["data"]] == [
        "version 1",
        "version 2",
        "normal noise, right standard errors",
    ]
    assert spread.figure["data"][0]["y"][:2] == [
        "expand, level 1:<br>version 1",
        "expand, level 1:<br>version 2",
    ]


def test_named_snapshots_are_shown_and_unknown_ones_refused(store: Store) -> None:
    parts = ReportParts(snapshots=["trajectory-b"])
    section = next(page for page in report_pages(store.at(), parts) if page.key == "snapshots").sections[0]
    assert [shown["cursor"] for shown in section.snapshots] == [64, 68]
    with pytest.raises(InputError, match="no snapshot 'nowhere'"):
        report_pages(store.at(), ReportParts(snapshots=["nowhere"]))


def test_a_checkpoint_of_other_labels_is_refused(store: Store, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "best", gist_hash="other")
    with pytest.raises(InputError, match=r"another GistNet than the labels of .* at version 1 have"):
        report_pages(store.at(), ReportParts(checkpoints=[other]))


def test_checkpoints_are_judged_on_labels_that_all_learned_from(store: Store, tmp_path: Path) -> None:
    mixed = write_checkpoint(tmp_path / "mixed" / "best", gist_hash="mean+other")
    own = write_checkpoint(tmp_path / "own" / "best")
    pages = {page.key: page for page in report_pages(store.at(), ReportParts(checkpoints=[mixed, own]))}
    assert "Judged on 2 snapshots of the test split." in pages["comparison"].sections[0].paragraphs[0]
    assert pages["snapshots"].sections[0].snapshots[0]["scorers"] == ["mixed", "own"]


def test_a_named_checkpoint_needs_labels(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "best")
    with pytest.raises(InputError, match="has no labels to judge"):
        report_pages(write_store(tmp_path / "empty", []).at(), ReportParts(checkpoints=[checkpoint]))


def test_a_run_trained_on_other_labels_keeps_its_page_and_gives_no_scores(
    store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "stranger"
    write_checkpoint(run / "best", gist_hash="other")
    pages = {page.key: page for page in report_pages(store.at(), ReportParts(runs=[run]))}
    assert "trained on other labels than these: stranger" in pages["signal"].sections[1].paragraphs[0]
    assert pages["snapshots"].sections[0].snapshots[0]["scorers"] == []
    assert "has no metrics.jsonl" in pages["training-1"].sections[0].paragraphs[0]


def test_snapshot_text_cannot_end_its_script_element(page: str) -> None:
    assert "window.hacked=1<" not in page
    (viewer,) = [text for text in Elements(page).inside("script") if text.startswith("[")]
    shown = {snapshot["title"].split(" · ")[0]: snapshot for snapshot in json.loads(viewer)}
    text = "".join(span["text"] for span in shown[SCRIPT_SOURCE]["spans"])
    assert text.startswith("<script>window.hacked=1</script>␀␛[31m⟨U+202E⟩\U0001f984")


def test_text_from_the_corpus_never_becomes_markup(page: str) -> None:
    elements = Elements(page)
    cells = "".join(elements.inside("bdi"))
    assert SCRIPT_SOURCE in cells
    assert ODD_SOURCE in cells
    assert "<script>alert" not in page
    assert not [tag for tag, attributes in elements.tags if "onerror" in attributes or tag == "img"]


def test_text_from_a_run_folder_never_becomes_markup(page: str) -> None:
    assert "<b>bold" not in page
    assert "</script><i>" not in page
    elements = Elements(page)
    assert "runs/</script><i>/best" in "".join(elements.inside("bdi"))
    # Inside a figure they are escaped twice, because plotly.js interprets HTML in its labels.
    figures = [json.loads(text) for text in elements.inside("script") if text.startswith("{")]
    names = {trace.get("name") for figure in figures for trace in figure["data"]}
    assert "&lt;/script&gt;&lt;i&gt;" in names
    assert "&lt;b&gt;bold&lt;/b&gt;" in {row for figure in figures for row in figure["data"][0]["y"]}


def test_all_scripts_are_inlined(page: str) -> None:
    elements = Elements(page)
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert all(set(attributes) <= {"type"} for attributes in scripts)
    assert len([attributes for attributes in scripts if not attributes]) == NUM_SCRIPTS
    assert page.count("* plotly.js v") == 1


def test_nothing_is_fetched(page: str) -> None:
    elements = Elements(page)
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "poster", "data", "background"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, name, value)
    rest = page.replace(get_plotlyjs(), "")
    assert not re.search(r"@import|url\(|https?:|import\s*\(", rest)


def test_the_policy_allows_the_inlined_scripts_only(page: str) -> None:
    (policy,) = [
        attributes["content"]
        for tag, attributes in Elements(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]
    assert policy.count("sha256-") == NUM_SCRIPTS


def test_numbers_that_are_not_finite_become_gaps() -> None:
    figure = {
        "data": [{"x": [1.0, math.nan, math.inf], "y": (None, -math.inf, 2)}],
        "layout": {"height": 100},
    }
    assert clean(figure)["data"] == [{"x": [1.0, None, None], "y": [None, None, 2]}]
    plot = Plot("gaps", figure, "There is nothing to read.", "1 point")
    page = render_pages("t", "s", [Page("p", "Page", [Section("k", "Title", [], plots=[plot])])])
    (data,) = [text for text in Elements(page).inside("script") if text.startswith("{")]
    assert json.loads(data)["data"][0]["x"] == [1.0, None, None]


def test_a_page_without_plots_carries_no_plotly() -> None:
    table = Table("caption", ["a"], [["1 < 2"]])
    page = render_pages("t", "s", [Page("p", "Page", [Section("k", "Title", ["p"], tables=[table])])])
    assert "1 &lt; 2" in page
    assert len(page) < 25_000


def test_half_a_surrogate_pair_becomes_a_question_mark(page: str) -> None:
    assert "noise ?" in "".join(Elements(page).inside("bdi"))
    assert "\\ud800" not in page.replace(get_plotlyjs(), "")
    assert clean({"a": ["\ud800", "\U0001f984"]}) == {"a": ["?", "\U0001f984"]}


def test_a_label_that_is_not_finite_does_not_fail(tmp_path: Path) -> None:
    odd = [Measured("expand", 1, 0, math.nan), Measured("expand", 1, 1, math.inf)]
    trajectory = replace(BY_HAND[0], measured=[*BY_HAND[0].measured, *odd])
    store = write_store(tmp_path / "store", [trajectory])
    assert "NaN" not in build_report(store.at(), ReportParts(), NOON).replace(get_plotlyjs(), "")
