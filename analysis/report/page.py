"""Page model and its rendering into one self-contained HTML file.

Text from a store or a run folder is data: it reaches the page through Jinja's autoescaping or as
escaped JSON. The file's content policy allows its own scripts by their hash, and no request at all.
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

ASSETS = Path(__file__).with_name("assets")


@dataclass(frozen=True)
class Plot:
    """One plot with its reading and its sample size."""

    title: str
    figure: Figure
    reading: str
    """one sentence: how to read it"""
    counted: str
    """sample size, e.g. "62 labels, 4 documents" """


@dataclass(frozen=True)
class Table:
    """Cells are text as shown; `numeric` names the columns that align right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KeyFigure:
    """One of the numbers in the row that opens a section."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """One chapter of a page, shown in the order of its fields."""

    key: str
    """link target within the page"""
    title: str
    paragraphs: Sequence[str]
    facts: Sequence[KeyFigure] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    folded: Mapping[str, str] = field(default_factory=dict)
    """long texts by title, collapsed at first"""
    folded_plots: Sequence[Plot] = ()
    """secondary plots, collapsed at first"""
    snapshots: Sequence[Mapping[str, Any]] = ()
    """for the viewer of single snapshots (`snapshots.js`), as plain data: see `sections/snapshots.py`"""


@dataclass(frozen=True)
class Page:
    """Sections shown together; the reader sees one page at a time."""

    key: str
    """link target; letters, digits and dashes"""
    title: str
    sections: Sequence[Section]
    group: str = ""
    """heading under which the list of pages shows it"""


def render_pages(title: str, subtitle: str, pages: Sequence[Page]) -> str:
    """Render all pages into the text of one HTML file with styles, scripts and plotly.js inlined.

    Numbers that are not finite are left out.
    """
    environment = page_environment(ASSETS)
    scripts = _scripts([section for page in pages for section in page.sections])
    text = environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        pages=pages,
        groups=list(dict.fromkeys(page.group for page in pages)),
        style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        scripts={name: Markup(script) for name, script in scripts.items()},
        script_hashes=[content_hash(script) for script in scripts.values()],
    )
    return whole_characters(text)


def page_environment(templates: Path) -> Environment:
    """Jinja over the folder `templates`: escapes what it inserts; the filter as_json makes escaped JSON."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["as_json"] = lambda value: htmlsafe_json_dumps(clean(value), allow_nan=False)
    return environment


def _scripts(sections: Sequence[Section]) -> dict[str, str]:
    """Scripts that the sections need, in the order of execution; plotly.js only where there are plots."""
    names = ["pages.js"]
    has_plots = any(section.plots or section.folded_plots for section in sections)
    if has_plots:
        names.append("plots.js")
    if any(section.snapshots for section in sections):
        names.append("snapshots.js")
    own = {name: (ASSETS / name).read_text(encoding="utf-8") for name in names}
    return {"plotly": get_plotlyjs(), **own} if has_plots else own


def clean(value: Any) -> Any:
    """Nested lists and dictionaries made fit for JSON and UTF-8.

    A number that is not finite becomes None, half a surrogate pair (which crashes some browsers) a question
    mark.
    """
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return whole_characters(value) if isinstance(value, str) else value


def whole_characters(text: str) -> str:
    """The text with half surrogate pairs, which no file holds, as question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def content_hash(script: str) -> str:
    """The source expression by which a page's content policy allows `script`."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
