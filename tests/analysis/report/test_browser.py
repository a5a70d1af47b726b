"""The report in a real browser: plots are drawn, hovering shows numbers, pages fit a phone, and text from the
corpus stays text.

Needs chromium on the PATH: skipped without it on a person's machine, failed without it where CI is set.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mctrace.analysis.report.report import ReportParts, build_report
from mctrace.datasets.store.store import Store
from tests.analysis.synthetic import ODD_SOURCE, write_checkpoint, write_run
from tests.browser import Chromium, Tab, opened
from tests.collect.runs import tiny_run

TEXT_COLORS = {"light": "rgb(28, 33, 40)", "dark": "rgb(228, 231, 235)"}
OPEN_CANVASES = (
    "[...document.querySelectorAll('.page.current .canvas')].filter((one) => one.checkVisibility())"
)
DRAWN = (
    f"{OPEN_CANVASES}.every((one) => one.querySelector('.point, .points path, path.js-line, .hm image') && "
    "one.querySelector('.xtick text'))"
)
CUT_TITLES = (
    f"{OPEN_CANVASES}.flatMap((one) => {{ "
    "const box = one.querySelector('.main-svg').getBoundingClientRect(); "
    "return [...one.querySelectorAll('.xtitle, .ytitle')].filter((title) => { "
    "const own = title.getBoundingClientRect(); return own.left < box.left - 1 || own.right > box.right + 1 "
    "|| own.top < box.top - 1 || own.bottom > box.bottom + 1; }).map((title) => title.textContent); })"
)
"""Titles of axes that the edge of their plot cuts off."""
SAME_TICKS = (
    f"{OPEN_CANVASES}.flatMap((one) => ['.xtick', '.ytick'].filter((axis) => {{ "
    "const texts = [...one.querySelectorAll(axis)].map((tick) => tick.textContent); "
    "return new Set(texts).size < texts.length; }).map((axis) => `${one.ariaLabel} ${axis}`))"
)
"""Axes of which two ticks read the same."""
SPAN = "document.querySelectorAll('.document .span')[{}]"
DETAIL = "document.querySelector('.detail').innerText"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ReportParts:
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "</script><i>run"
    run.mkdir(parents=True)
    write_checkpoint(write_run(run) / "best")
    other = write_checkpoint(folder / "other" / "best", seed=1)
    return ReportParts(runs=[run], checkpoints=[other])


@pytest.fixture(scope="module")
def file(store: Store, parts: ReportParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    compared = replace(parts, compared=store.at(0))
    file.write_text(build_report(store.at(), compared, datetime(2026, 1, 2, tzinfo=UTC)), encoding="utf-8")
    return file


@pytest.fixture
def tab(browser: Chromium, file: Path) -> Iterator[Tab]:
    with opened(browser, 1280, 900, "light") as found:
        found.open(file)
        yield found
        assert found.complaints == []


def go_to(tab: Tab, page: str) -> None:
    tab.run(f"location.hash = '#{page}'")
    tab.wait_for(f"document.querySelector('.page.current').id === '{page}'")


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "dark"), (1280, "light"), (390, "dark"), (390, "light")]
)
def test_every_page_is_drawn_in_the_readers_colours_and_fits(
    browser: Chromium, file: Path, width: int, scheme: str
) -> None:
    with opened(browser, width, 900, scheme) as tab:
        tab.open(file)
        pages = tab.run("[...document.querySelectorAll('nav.pages a')].map((one) => one.hash.slice(1))")
        assert pages == [
            "signal", "values", "targets", "snapshots", "comparison", "store", "run-1", "training-1",
        ]  # fmt: skip
        num_plots = 0
        for page in pages:
            go_to(tab, page)
            tab.wait_for(DRAWN)
            assert tab.run("document.querySelectorAll('.page.current').length") == 1
            assert tab.run("document.documentElement.scrollWidth") <= width, page
            clipped = f"{OPEN_CANVASES}.filter((one) => one.scrollWidth > one.clientWidth)"
            assert tab.run(f"{clipped}.map((one) => one.ariaLabel)") == []
            widths = tab.run(f"{OPEN_CANVASES}.map((one) => one.querySelector('.main-svg').clientWidth)")
            assert all(250 < one < width for one in widths)
            colors = tab.run(f"{OPEN_CANVASES}.map((one) => one.querySelector('.xtick text').style.fill)")
            assert set(colors) <= {TEXT_COLORS[scheme]}
            assert tab.run(CUT_TITLES) == [], page
            assert tab.run(SAME_TICKS) == [], page
            num_plots += len(widths)
        assert num_plots > 20
        assert tab.complaints == []
        assert {url.split(":")[0] for url in tab.requests} <= {"file", "data", "blob"}


def test_hovering_a_mark_shows_its_numbers(tab: Tab) -> None:
    tab.wait_for(DRAWN)
    tab.hover("document.querySelector('#signal .canvas .point')")
    said = tab.wait_for("document.querySelector('#signal .hoverlayer .hovertext')?.textContent")
    assert "tokens" in said
    assert "% of labels" in said


def test_the_reader_can_switch_the_colour_scheme(tab: Tab) -> None:
    tab.wait_for(DRAWN)
    assert tab.run("document.querySelector('button.scheme').textContent") == "Dark"
    tab.click("document.querySelector('button.scheme')")
    color = "document.querySelector('.page.current .xtick text').style.fill"
    tab.wait_for(f"{color} === '{TEXT_COLORS['dark']}'")
    assert tab.run("getComputedStyle(document.body).color") == TEXT_COLORS["dark"]
    assert tab.run("document.querySelector('button.scheme').textContent") == "Light"


def test_hovering_a_span_shows_its_measured_values(tab: Tab) -> None:
    go_to(tab, "snapshots")
    # The held-out document comes first: b, whose level-1 gist 4 was worth 1 nat.
    tab.hover(SPAN.format(1))
    said = tab.wait_for(f"{DETAIL}.includes('level-1 gist 4') && {DETAIL}")
    assert "+1.0000" in said
    assert "costs 3" in said
    assert "score: other" in said
    blue, plain = (tab.run(f"{SPAN.format(place)}.style.background") for place in (1, 3))
    assert "--helps" in blue
    assert plain == ""  # not measured
    tab.hover("document.querySelectorAll('.strip rect')[2]")
    tab.wait_for(f"{DETAIL}.includes('level-1 gist 5')")


def test_a_span_can_be_pinned_and_coloured_by_another_measure(tab: Tab) -> None:
    go_to(tab, "snapshots")
    tab.click(SPAN.format(1))
    tab.hover("document.querySelector('h1')")
    assert "level-1 gist 4" in tab.run(DETAIL)
    assert tab.run("document.querySelectorAll('.pinned').length") >= 3  # in the text and on every strip
    tab.run(
        "(() => { const choice = document.querySelector('[data-choice=colour]'); choice.value = 'score 0'; "
        "choice.dispatchEvent(new Event('change')); })()"
    )
    assert "color-mix" in tab.run(f"{SPAN.format(3)}.style.background")  # scored, though not measured
    tab.run("document.querySelector('.chooser select').focus()")
    tab.click("document.querySelector('[aria-label=\"Next snapshot\"]')")
    assert tab.run("document.querySelector('.chooser select').value") == "1"
    assert tab.run("document.querySelector('[data-choice=colour]').value") == "score 0"


def test_actions_sort_by_any_column_and_lead_to_their_span(tab: Tab) -> None:
    go_to(tab, "snapshots")
    tab.click("document.querySelector('[aria-label=\"Next snapshot\"]')")
    values = "[...document.querySelectorAll('.actions tbody tr')].map((row) => row.cells[3].textContent)"
    assert tab.run(values) == [
        "+0.5000", "+0.5000", "+0.2500", "+0.2500", "+0.0625", "0", "−0.1250", "−0.2500",
    ]  # fmt: skip
    tab.click("document.querySelectorAll('.actions th button')[3]")
    assert tab.run(values)[0] == "−0.2500"
    assert tab.run("document.querySelectorAll('.actions th')[3].ariaSort") == "ascending"
    tab.click("document.querySelector('.actions tbody tr')")
    assert "Collapse into level-2 gist 1" in tab.run(DETAIL)


def test_a_script_in_the_corpus_is_shown_and_not_run(tab: Tab) -> None:
    go_to(tab, "snapshots")
    titles = tab.run("[...document.querySelectorAll('.chooser option')].map((one) => one.textContent)")
    assert "⟨U+202E⟩gnp.exe" in titles[0]
    assert ODD_SOURCE.split("\u202e", maxsplit=1)[0] in titles[0]
    tab.click("document.querySelector('[aria-label=\"Next snapshot\"]')")
    text = tab.run("document.querySelector('.document').textContent")
    assert text == "<script>window.hacked=1</script>␀␛[31m⟨U+202E⟩\U0001f984 caf\u00e9 <b onclick=h"
    assert (
        tab.run("document.querySelectorAll('.document :not(.span), .actions b, .actions script').length") == 0
    )
    assert tab.run("window.hacked === undefined")


def test_a_link_to_a_section_opens_its_page(browser: Chromium, file: Path) -> None:
    with opened(browser, 1280, 900, "light") as tab:
        tab.call("Page.navigate", url=f"{file.as_uri()}#values-top")
        tab.wait_for("document.readyState === 'complete'")
        tab.wait_for("document.querySelector('.page.current')?.id === 'values'")
        tab.wait_for("document.getElementById('values-top').getBoundingClientRect().top < 400")
        assert tab.run("document.querySelector('nav.pages [aria-current]').textContent") == "Value of detail"
        assert tab.complaints == []


def test_absent_blocks_are_drawn_as_such_and_their_edits_pay_with_the_right_sign(
    browser: Chromium, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = tiny_run(tiny_settings, tmp_path, **{"tree.absence": "tokens", "collect.max_detail": "absent"})
    run.measure()
    file = tmp_path / "report.html"
    page = build_report(run.store.at(), ReportParts(), datetime(2026, 1, 2, tzinfo=UTC))
    file.write_text(page, encoding="utf-8")
    with opened(browser, 1280, 900, "light") as tab:
        tab.open(file)
        go_to(tab, "snapshots")
        signs = tab.run(
            "[...document.querySelectorAll('.actions tbody tr')]"
            ".map((row) => `${row.cells[0].textContent} ${row.cells[5].textContent[0]}`)"
        )
        assert {"insert +", "drop −"} <= set(signs) <= {"insert +", "drop −", "expand +", "collapse −"}
        assert tab.run("document.querySelector('.legend .swatch.absent').textContent") == "absent"
        tab.click("document.querySelector('.document .span.absent')")
        assert re.search(r"absent block [\d,]+\n.*Insert.*costs \d", tab.run(DETAIL), re.DOTALL)
        assert tab.complaints == []
