"""The page of an attribution in a real browser, as a file and in the frame that a notebook shows.

Needs chromium on the PATH: skipped without it on a person's machine, failed without it where CI is set.
"""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from mctrace.attribution import page
from mctrace.attribution.attribute import attribute
from mctrace.attribution.attribution import Attribution
from mctrace.attribution.result import Token, Unit
from mctrace.attribution.shades import shades
from mctrace.errors import InputError
from tests.attribution.making import sharp_model
from tests.browser import Chromium, Tab, opened

ODD = "</script><img src=x onerror=alert(1)>. <b>Bold</b> & \u202e odd. Second time? An end."
UNIT = "document.querySelectorAll('.unit')[{}]"
DETAIL = "document.querySelector('.detail').innerText"
COLOUR = "getComputedStyle({}).backgroundColor"


@pytest.fixture(scope="module")
def found(tiny_model_folder) -> Attribution:
    return attribute(ODD, model=sharp_model(tiny_model_folder), target=" <i>On</i>.")


@pytest.fixture(scope="module")
def file(found: Attribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "attribution.html"
    found.write_html(file)
    return file


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide and light", "narrow and dark"])
def tab(browser: Chromium, file: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    width, scheme = request.param
    with opened(browser, width, 900, scheme) as tab:
        tab.open(file)
        yield tab
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_the_text_is_coloured_by_value_and_stays_text(tab, found):
    shown = tab.run("document.querySelector('.text').innerText")
    assert ODD.replace("\u202e", "⟨U+202E⟩") in shown
    assert "<i>On</i>." in shown
    assert tab.run("document.querySelectorAll('img, .text b, .text i').length") == 0
    for unit in found.units:
        assert tab.run(
            f"{UNIT.format(unit.index)}.classList.contains('{'helps' if unit.nats >= 0 else 'hurts'}')"
        )
    colours = {tab.run(COLOUR.format(UNIT.format(i))) for i in range(len(found.units))}
    assert len(colours) > 1


def test_hovering_shows_numbers_with_their_error(tab, found):
    tab.hover(UNIT.format(1))
    shown = tab.run(DETAIL)
    assert f"{abs(found.units[1].nats):.{2 if abs(found.units[1].nats) >= 1 else 4}f}" in shown
    assert f"{found.units[1].stderr:.2f}" in shown


def test_a_click_compares_with_and_without(tab, found):
    before = tab.run(COLOUR.format(UNIT.format(2)))
    tab.click(UNIT.format(0))
    assert tab.run(f"{UNIT.format(0)}.classList.contains('pinned')")
    place = int(np.abs(found.units[0].delta_nll_T).argmax())
    token = found.tokens[found.units[0].first_following + place]
    with_it, without = token.nll, token.nll + found.units[0].delta_nll_T[place]
    cells = tab.run("[...document.querySelector('.detail tbody tr').cells].map((cell) => cell.textContent)")
    assert cells == [token.text, f"{with_it:.2f}", f"{without:.2f}"]
    titled = f"document.querySelectorAll('.token')[{found.units[0].first_following + place}].title"
    numbers = [float(number) for number in re.findall(r"[\d.]+", tab.run(titled))]
    assert numbers[:2] == pytest.approx([with_it, without], abs=2e-3)
    assert tab.run("document.querySelectorAll('.target .token.helps, .target .token.hurts').length") > 0
    tab.click("document.querySelector('.back')")
    assert tab.run(COLOUR.format(UNIT.format(2))) == before


def test_a_row_of_the_table_and_the_keyboard_do_the_same(tab, found):
    tab.click("document.querySelector('tbody td')")
    strongest = found.ranked[0].index
    assert tab.run(f"{UNIT.format(strongest)}.classList.contains('pinned')")
    tab.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert tab.run("document.querySelectorAll('.pinned').length") == 0
    tab.run(f"{UNIT.format(1)}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true}}))")
    assert tab.run(f"{UNIT.format(1)}.classList.contains('pinned')")


def test_the_table_shows_the_text_of_a_part_without_scrolling(tab, found):
    box = "document.querySelector('td.excerpt').getBoundingClientRect()"
    assert 0 <= tab.run(f"{box}.left") < tab.run(f"{box}.right") <= tab.run("innerWidth")


def test_another_measure_colours_anew(tab, found):
    before = [tab.run(COLOUR.format(UNIT.format(i))) for i in range(len(found.units))]
    tab.run(
        "(() => { const one = document.querySelector('select'); one.value = 'signal'; "
        "one.dispatchEvent(new Event('change')); })()"
    )
    assert [tab.run(COLOUR.format(UNIT.format(i))) for i in range(len(found.units))] != before


def test_a_notebook_shows_the_page_in_a_sandbox(browser, found, tmp_path):
    shown = found._repr_html_()
    assert re.match(r'<iframe sandbox="allow-scripts" ', shown)
    assert unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == found.html()
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><meta charset=utf-8><title>n</title>{shown}", encoding="utf-8")
    with opened(browser, 1000, 800, "light") as tab:
        tab.open(notebook)
        assert tab.run("document.querySelector('iframe').contentDocument") is None
        frame = "document.querySelector('iframe')"
        assert tab.run(f"{frame}.getBoundingClientRect().height") == 620
        x, y = tab.middle_of(frame)
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert tab.complaints == []


def made(num_units: int, width: int) -> Attribution:
    """A result whose every token is a unit, without a model."""
    generator = np.random.default_rng(0)
    tokens = tuple(Token("ab", 1.0) for _ in range(num_units + 1))
    units = tuple(
        Unit(i, "ab", i, i + 1, i + 1, generator.normal(size=min(width, num_units - i)))
        for i in range(num_units)
    )
    return Attribution("ab" * (num_units + 1), None, tokens, units, "token", "drop", "exact", "model", None)


def test_a_page_keeps_the_largest_effects_when_there_are_too_many(monkeypatch):
    small = made(60, 60)
    whole = len(small.html())
    monkeypatch.setattr(page, "_MOST_EFFECTS", 100)
    kept = small.html()
    sizes = np.sort(np.abs(np.concatenate([unit.delta_nll_T for unit in small.units])))
    assert len(kept) < whole - 10 * 1000
    assert f"below {sizes[-100]:.3g} nats are not drawn" in kept


def test_shades_grow_with_size_and_keep_their_sign():
    assert shades([0.0, None, 4.0, -1.0]) == [0.0, None, 1.0, -0.5]
    assert shades([None]) == [None]
    assert shades([0.0, 0.0]) == [0.0, 0.0]


def test_a_page_that_cannot_be_written_is_one_line(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        found.write_html(tmp_path / "file" / "page.html")
    with pytest.raises(InputError, match="is a folder"):
        page.check_page_path(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        page.check_page_path(tmp_path / "file" / "deep" / "page.html")
