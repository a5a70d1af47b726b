"""The page: every section, nothing but data from the data, nothing from elsewhere."""

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

from mctrace.analysis.page import Plot, Section, Table, clean, render_page
from mctrace.analysis.report import build_report, report_sections
from mctrace.datasets.store import Store
from tests.analysis.synthetic import (
    BY_HAND,
    ODD_SOURCE,
    SCRIPT_SOURCE,
    Measured,
    write_run,
    write_store,
)

TITLES = [
    "What this store holds",
    "Signal against noise",
    "Value of detail by level and action",
    "Value of detail against distance",
    "Literal against priced targets",
    "Training curves",
    "Held-out evaluation",
    "Most valuable labels",
]
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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sections(store: Store, run: Path) -> list[Section]:
    return report_sections(store.at(), run)


@pytest.fixture(scope="module")
def page(store: Store, run: Path) -> str:
    return build_report(store.at(), run, NOON)


def all_plots(sections: list[Section]) -> Iterator[Plot]:
    for section in sections:
        yield from section.plots
        yield from section.folded_plots


def test_sections_come_in_reading_order(sections: list[Section]) -> None:
    assert [section.title for section in sections] == TITLES
    assert all(section.plots or section.tables for section in sections)


def test_every_plot_says_how_to_read_it_and_what_n_is(sections: list[Section]) -> None:
    for plot in all_plots(sections):
        assert plot.reading.endswith("."), plot.title
        assert re.search(r"\d", plot.counted), plot.title


def test_plotly_accepts_every_figure(sections: list[Section]) -> None:
    for plot in all_plots(sections):
        assert go.Figure(plot.figure).data, plot.title


def test_signal_comes_with_its_numbers(sections: list[Section]) -> None:
    signal = sections[1]
    assert "At 32 tokens, 66.7% of 12 labels" in signal.paragraphs[1]
    assert signal.tables[0].rows[0][:6] == ["all actions", "12", "2", "8", "66.7%", "63.6%"]
    shares, stability = signal.plots
    assert [trace["name"] for trace in shares.figure["data"]] == [
        "all actions", "expand, level 1", "expand, level 2", "collapse, level 0", "collapse, level 1",
        "normal noise alone",
    ]  # fmt: skip
    assert stability.figure["data"][0]["y"] == pytest.approx([0.8])


def test_a_store_without_labels_is_said_in_a_sentence_each(stores_without_labels: list[Store]) -> None:
    for store in stores_without_labels:
        sections = report_sections(store.at(), None)
        assert [section.title for section in sections] == TITLES
        for section in sections[1:]:
            assert len(section.paragraphs) == 1
            assert not section.plots
        assert "plotly.js v" not in build_report(store.at(), None, NOON)


def test_an_empty_store_says_so(stores_without_labels: list[Store]) -> None:
    empty, _, failed = (report_sections(store.at(), None)[0] for store in stores_without_labels)
    assert "is empty" in empty.paragraphs[0]
    assert failed.notes == ["Tried but not measured, and so without a label: 1 action."]


def test_words_from_the_corpus_stay_words(page: str) -> None:
    elements = Elements(page)
    cells = "".join(elements.inside("bdi"))
    assert SCRIPT_SOURCE in cells
    assert ODD_SOURCE in cells
    assert "<script>alert" not in page
    assert not [tag for tag, attributes in elements.tags if "onerror" in attributes or tag == "img"]


def test_words_from_a_run_folder_stay_words(page: str) -> None:
    assert "<b>bold" not in page
    assert "</script><i>" not in page
    elements = Elements(page)
    assert "runs/</script><i>/best" in "".join(elements.inside("p"))
    # Inside a figure they are escaped once more, because plotly.js reads HTML in its labels.
    figures = [json.loads(text) for text in elements.inside("script") if text.startswith("{")]
    names = {trace["name"] for figure in figures for trace in figure["data"]}
    assert "&lt;/script&gt;&lt;i&gt;" in names
    assert "&lt;b&gt;bold&lt;/b&gt;" in {row for figure in figures for row in figure["data"][0]["y"]}


def test_three_scripts_of_its_own_and_none_from_elsewhere(page: str) -> None:
    elements = Elements(page)
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert all(set(attributes) <= {"type"} for attributes in scripts)
    assert len([attributes for attributes in scripts if not attributes]) == 2
    assert page.count("* plotly.js v") == 1


def test_nothing_is_fetched_from_anywhere(page: str) -> None:
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
    assert policy.count("sha256-") == 2


def test_numbers_that_are_not_finite_become_gaps() -> None:
    figure = {
        "data": [{"x": [1.0, math.nan, math.inf], "y": (None, -math.inf, 2)}],
        "layout": {"height": 100},
    }
    assert clean(figure)["data"] == [{"x": [1.0, None, None], "y": [None, None, 2]}]
    plot = Plot("gaps", figure, "There is nothing to read.", "1 point")
    page = render_page("t", "s", [Section("k", "Title", [], plots=[plot])])
    (data,) = [text for text in Elements(page).inside("script") if text.startswith("{")]
    assert json.loads(data)["data"][0]["x"] == [1.0, None, None]


def test_a_page_without_plots_carries_no_plotly() -> None:
    table = Table("caption", ["a"], [["1 < 2"]])
    page = render_page("t", "s", [Section("k", "Title", ["p"], tables=[table])])
    assert "1 &lt; 2" in page
    assert len(page) < 20_000


def test_half_a_surrogate_pair_becomes_a_question_mark(page: str) -> None:
    assert "noise ?" in "".join(Elements(page).inside("bdi"))
    assert "\\ud800" not in page.replace(get_plotlyjs(), "")
    assert clean({"a": ["\ud800", "\U0001f984"]}) == {"a": ["?", "\U0001f984"]}


def test_a_label_that_is_no_number_crashes_nothing(tmp_path: Path) -> None:
    odd = [Measured("expand", 1, 0, math.nan), Measured("expand", 1, 1, math.inf)]
    trajectory = replace(BY_HAND[0], measured=[*BY_HAND[0].measured, *odd])
    store = write_store(tmp_path / "store", [trajectory])
    assert "NaN" not in build_report(store.at(), None, NOON).replace(get_plotlyjs(), "")
