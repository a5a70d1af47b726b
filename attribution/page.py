"""The page of an attribution: one self-contained HTML file, and the frame that shows it in a notebook.

The style, the switch between light and dark, and the rules for corpus text are the report's: text reaches the
page through Jinja's autoescaping, acting characters written out, and the content policy allows the page's own
scripts by their hash and no request at all.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mctrace.analysis.report.formatting import MISSING, counted, nats, number, total_nats
from mctrace.analysis.report.page import ASSETS as REPORT_ASSETS
from mctrace.analysis.report.page import content_hash, page_environment, whole_characters
from mctrace.analysis.snapshots.visible_text import excerpt, visible
from mctrace.atomic_file import replacing
from mctrace.attribution.result import AttributionResult, Unit
from mctrace.attribution.shades import shades
from mctrace.errors import InputError

_ASSETS = Path(__file__).with_name("assets")
_MOST_EFFECTS = 400_000
"""effects on single tokens in one page; beyond that the smallest are left out"""
_LEAST_EFFECT = 0.005
"""nats; a page shows two decimals"""
_FRAME_HEIGHT = 620
"""pixels in a notebook"""
MEASURES = ("nats", "nats_per_token", "signal")
"""what the text can be coloured by, the first at first"""


@dataclass(frozen=True)
class _Shown:
    """One part as the template writes it."""

    unit: Unit
    shade: float | None
    tokens: list[str]
    title: str


def render_attribution(attribution: AttributionResult) -> str:
    """The text of the HTML file."""
    environment = page_environment(_ASSETS)
    scripts = {
        "pages": (REPORT_ASSETS / "pages.js").read_text(encoding="utf-8"),
        "attribution": (_ASSETS / "attribution.js").read_text(encoding="utf-8"),
    }
    styles = [REPORT_ASSETS / "report.css", _ASSETS / "attribution.css"]
    effects, least = _effects(attribution)
    text = environment.get_template("attribution.html").render(
        title="What each part of the text is worth",
        reading=_reading(attribution),
        facts=_facts(attribution),
        units=list(_shown(attribution)),
        is_code=attribution.unit == "line",
        target=[visible(token.text) for token in _target_tokens(attribution)],
        ranked=[_table_row(unit) for unit in attribution.ranked],
        unmeasured=_unmeasured(attribution),
        data=_data(attribution, effects),
        note=_note(attribution, least),
        style=Markup("\n".join(path.read_text(encoding="utf-8") for path in styles)),
        scripts={name: Markup(script) for name, script in scripts.items()},
        script_hashes=[content_hash(script) for script in scripts.values()],
    )
    return whole_characters(text)


def check_page_path(out: Path) -> None:
    """Raises InputError when `out` is a folder or lies below a file, before anything is measured."""
    if out.is_dir():
        raise InputError(f"{out} is a folder: give a file name, like {out / 'attribution.html'}")
    there = next((folder for folder in out.absolute().parents if os.path.lexists(folder)), None)
    if there is not None and not there.is_dir():
        raise InputError(f"cannot write {out}: {there} is no folder")


def write_page(out: Path, page: str) -> None:
    """Write the page to `out`, or leave what was there. Raises InputError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as scratch:
            scratch.write_bytes(page.encode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error


def framed(page: str) -> str:
    """The page in a frame that runs its scripts, and reaches neither the notebook nor a server."""
    return (
        f'<iframe sandbox="allow-scripts" style="width: 100%; height: {_FRAME_HEIGHT}px; border: 0" '
        f'title="What each part of the text is worth" srcdoc="{escape(page)}"></iframe>'
    )


def _reading(attribution: AttributionResult) -> str:
    done = "left out" if attribution.against == "drop" else "replaced by its gist"
    whose = "everything that follows it" if attribution.target is None else "the target"
    how, detail = f"and {whose} is read again", "token by token, the loss with it and without it"
    if attribution.estimator == "gradient":
        how = f"and the loss of {whose} is estimated to first order, without reading it again"
        detail = "how its estimate is spread: a mean for each of a few stretches of what is read"
    return (
        f"Each {attribution.unit} is {done}, {how}. Blue parts help: without them the loss is higher. Orange "
        f"ones mislead. Point at a part for its numbers; click it to see {detail}."
    )


def _facts(attribution: AttributionResult) -> list[tuple[str, str]]:
    measured = sum(unit.nats is not None for unit in attribution.units)
    known = [token.nll for token in attribution.tokens if token.nll is not None]
    facts = [
        ("model", visible(attribution.model)),
        ("tokens", f"{len(attribution.tokens):,}"),
        ("parts measured", f"{measured:,} of {counted(len(attribution.units), attribution.unit)}"),
        ("loss with everything", f"{number(sum(known) / len(known))} nats/token"),
        ("estimator", attribution.estimator),
    ]
    return [*facts, *([("gists", visible(attribution.gists))] if attribution.gists else [])]


def _shown(attribution: AttributionResult) -> Iterator[_Shown]:
    colours = shades([unit.nats for unit in attribution.units])
    for unit, shade in zip(attribution.units, colours, strict=True):
        tokens = [visible(token.text) for token in attribution.tokens[unit.first : unit.end]]
        yield _Shown(
            unit, shade, tokens, f"{_worth(unit)} nats" if unit.nats is not None else unit.unmeasured
        )


def _target_tokens(attribution: AttributionResult) -> Any:
    return attribution.tokens[attribution.units[-1].end :]


def _worth(unit: Unit) -> str:
    """The part's worth with its standard error, in nats."""
    return total_nats(unit.nats) + ("" if unit.stderr is None else f" ± {number(unit.stderr)}")


def _table_row(unit: Unit) -> dict[str, Any]:
    return {
        "index": unit.index,
        "place": f"{unit.first:,}",
        "nats": total_nats(unit.nats),
        "stderr": number(unit.stderr),
        "per_token": nats(unit.nats_per_token),
        "following": f"{unit.num_following:,}",
        "text": excerpt(unit.text, 160) or MISSING,
    }


def _unmeasured(attribution: AttributionResult) -> list[str]:
    reasons = [unit.unmeasured for unit in attribution.units if unit.nats is None]
    return [f"{counted(reasons.count(reason), attribution.unit)} not measured: {reason}."
            for reason in dict.fromkeys(reasons)]  # fmt: skip


def _note(attribution: AttributionResult, least: float) -> str:
    errors = (
        "An estimate has no standard error; it ranks parts better than it sizes them, and says too little "
        "of a part that nothing else can stand in for."
        if attribution.estimator == "gradient"
        else "± is the standard error over the following tokens, as if they were independent: it says how "
        "unevenly the effect is spread, and is too small where a few neighbouring tokens carry it."
    )
    return f"{errors} Effects on single tokens below {number(least)} nats are not drawn."


def _effects(attribution: AttributionResult) -> tuple[list[tuple[Unit, np.ndarray]], float]:
    """Per measured part the places, within its effect, of what is drawn; and the least size drawn."""
    measured = [unit for unit in attribution.units if unit.delta_nll_T is not None]
    sizes = np.concatenate([np.abs(unit.delta_nll_T) for unit in measured if unit.delta_nll_T is not None])
    least = _LEAST_EFFECT
    if np.count_nonzero(sizes >= least) > _MOST_EFFECTS:
        least = float(np.partition(sizes, len(sizes) - _MOST_EFFECTS)[len(sizes) - _MOST_EFFECTS])
    return [(unit, np.flatnonzero(np.abs(unit.delta_nll_T) >= least)) for unit in measured
            if unit.delta_nll_T is not None], least  # fmt: skip


def _data(attribution: AttributionResult, effects: list[tuple[Unit, np.ndarray]]) -> dict[str, Any]:
    """What the script reads: numbers only, in thousandths of a nat where they are many."""
    drawn = {unit.index: places for unit, places in effects}
    units = []
    for unit in attribution.units:
        places = drawn.get(unit.index)
        shown: dict[str, Any] = {"first": unit.first, "end": unit.end, "why": unit.unmeasured}
        if unit.delta_nll_T is not None and places is not None:
            signal = None if not unit.stderr else (unit.nats or 0.0) / unit.stderr
            shown |= {
                "nats": unit.nats, "stderr": unit.stderr, "nats_per_token": unit.nats_per_token,
                "signal": signal, "following": unit.first_following, "count": unit.num_following,
                "places": np.diff(places, prepend=0).tolist(),
                "deltas": np.rint(unit.delta_nll_T[places] * 1000).astype(int).tolist(),
            }  # fmt: skip
        units.append(shown)
    return {
        "units": units,
        "nll": [None if token.nll is None else round(token.nll, 3) for token in attribution.tokens],
        "shades": {measure: shades([shown.get(measure) for shown in units]) for measure in MEASURES},
        "kind": attribution.unit,
        "done": "left out" if attribution.against == "drop" else "replaced by its gist",
    }
