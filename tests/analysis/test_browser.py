"""The page in a real browser: plots are drawn, nothing is complained about, nothing is wider than a phone.

Needs chromium on the PATH: skipped without it on a person's machine, failed without it where CI is set.
"""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mctrace.analysis.report import build_report
from mctrace.datasets.store import Store
from tests.analysis.synthetic import write_run

LIGHT_PAGE_TEXT = "rgb(28, 33, 40)"
DARK_PAGE_TEXT = "rgb(228, 231, 235)"

FRAMES = """<!doctype html><body>{frames}<script>
setTimeout(() => {{
  const wide = (element) => element.scrollWidth > element.clientWidth;
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument;
    return {{
      window: frame.contentWindow.innerWidth,
      scrolls: wide(page.documentElement),
      clipped: [...page.querySelectorAll(".canvas")].filter(wide).map((canvas) => canvas.ariaLabel),
      plots: [...page.querySelectorAll("main > section > .plots .main-svg:first-child")].map(
        (svg) => svg.clientWidth),
      text: page.querySelector(".xtick text").style.fill,
    }};
  }});
  document.body.textContent = JSON.stringify(seen);
}}, 4000);
</script>"""
"""The page in frames of several widths, since a window cannot be as narrow as a phone; measured after four
seconds of virtual time."""


@dataclass(frozen=True)
class Rendered:
    """The document after its scripts ran, and what the browser's console said of it."""

    document: str
    complaints: list[str]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "chromium is not installed, so nobody has looked whether the report's plots are drawn"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_run(tmp_path_factory.mktemp("run"))
    return build_report(store.at(), run, datetime(2026, 1, 2, tzinfo=UTC))


def render(chromium: str, page: str, folder: Path, *flags: str) -> Rendered:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=6000", *flags, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return Rendered(done.stdout.decode("utf-8", errors="replace"), complaints)


def test_every_open_plot_has_marks_on_a_dark_page(chromium: str, page: str, tmp_path: Path) -> None:
    rendered = render(chromium, page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert rendered.complaints == []
    open_page = re.sub(r"<details>.*?</details>", "", rendered.document, flags=re.DOTALL)
    canvases = re.findall(r'<div class="canvas.*?</figcaption>', open_page, flags=re.DOTALL)
    assert len(canvases) >= 14
    for canvas in canvases:
        assert re.search(r'<g class="point"|<path class="point"|class="js-line"', canvas), canvas[:200]
    assert any('class="barlayer' in canvas and '<g class="point"' in canvas for canvas in canvases)
    assert any('class="errorbar' in canvas for canvas in canvases)
    assert f"fill: {DARK_PAGE_TEXT}" in open_page


def test_nothing_is_wider_than_the_screen_on_a_light_page(chromium: str, page: str, tmp_path: Path) -> None:
    widths = [390, 1280]
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
        for width in widths
    )
    rendered = render(
        chromium,
        FRAMES.format(frames=frames),
        tmp_path,
        "--window-size=1400,2000",
        "--blink-settings=preferredColorScheme=1",
    )
    assert rendered.complaints == []
    (found,) = re.findall(r"<body>(\[.*\])", rendered.document)
    seen = json.loads(html.unescape(found))
    assert [frame["window"] for frame in seen] == widths
    for frame in seen:
        assert frame["text"] == LIGHT_PAGE_TEXT
        assert not frame["scrolls"]
        assert frame["clipped"] == []
        assert len(frame["plots"]) >= 14
        assert min(frame["plots"]) > 250
        assert max(frame["plots"]) < frame["window"]
