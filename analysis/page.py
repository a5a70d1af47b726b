"""A page as values, and its rendering into one self-contained HTML file.

Whatever comes from a store or a run folder is data: it reaches the page through Jinja's autoescaping or as
escaped JSON. The page's content policy allows its own three scripts by their hash, and no request at all.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

Figure = dict[str, Any]
"""a Plotly figure as plain data: `data` (traces) and `layout`"""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """One plot with the two things every reader needs beside it."""

    title: str
    figure: Figure
    reading: str
    """one sentence: how to read it"""
    counted: str
    """what n is, e.g. "62 labels, 4 documents" """


@dataclass(frozen=True)
class Table:
    """Cells are text as shown; `numeric` names the columns that align right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fact:
    """One number of the line of numbers that opens a section."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """One chapter of a page; shows what it has, in this order."""

    key: str
    """names it in links within the page"""
    title: str
    paragraphs: Sequence[str]
    facts: Sequence[Fact] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    folded: Mapping[str, str] = field(default_factory=dict)
    """long texts by title, closed until a reader opens them"""
    folded_plots: Sequence[Plot] = ()
    """plots that most readers skip, closed until a reader opens them"""


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML text, styles, scripts and plotly.js inlined; a number that is not finite is left
    out."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = lambda figure: htmlsafe_json_dumps(clean(figure), allow_nan=False)
    scripts = {"plotly": get_plotlyjs(), "report": (_FOLDER / "report.js").read_text(encoding="utf-8")}
    page = environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        has_plots=any(section.plots or section.folded_plots for section in sections),
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        scripts={name: Markup(text) for name, text in scripts.items()},
        script_hashes=[_content_hash(text) for text in scripts.values()],
    )
    return _whole_characters(page)


def clean(value: Any) -> Any:
    """The same nested lists and dictionaries as JSON and UTF-8 can hold them: None for a number that is not
    finite, a question mark for half a surrogate pair (which some browsers do not survive)."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _whole_characters(value) if isinstance(value, str) else value


def _whole_characters(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _content_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
