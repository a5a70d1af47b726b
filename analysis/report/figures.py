"""Figures as plain data for plotly.js: rows in, traces and layout out.

Colours have a middle lightness that suits a light page and a dark one; the page's script adds text and grid
colours. Text from data passes through `plain`, since plotly.js interprets some HTML in labels.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mctrace.analysis.report.page import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3f86cf", "#d9742b", "#2f9c70", "#a169cf", "#868e99"
ACTION_COLORS = {"expand": BLUE, "collapse": ORANGE, "insert": GREEN, "drop": PURPLE}
_SYMBOLS = ("circle", "square", "diamond", "cross")
_DASHES = ("solid", "dash", "dot", "dashdot")

_FAINT = "rgba(134, 142, 153, 0.18)"
_MOST_LEVEL_TICKS = 6

Trace = dict[str, Any]
Values = Sequence[float | None]
"""None where there is no number"""


@dataclass(frozen=True)
class Axis:
    """Settings of an axis; `tickformat` is d3's, e.g. ".0%"."""

    title: str
    tickformat: str = ""
    from_zero: bool = False
    is_log: bool = False
    tickvals: Sequence[float] = ()
    span: tuple[float, float] | None = None
    """first and last value shown; None: chosen from the data"""
    top_down: bool = False
    """the first category, or the lowest number, is on top"""
    is_category: bool = False
    """values are names at equal distances, even where they look like numbers; no grid"""


def plain(text: str) -> str:
    """Text escaped so that plotly.js shows it unchanged."""
    return html.escape(text, quote=False)


def figure(traces: Sequence[Trace], x: Axis, y: Axis, *, height: int = 320, legend: bool = True) -> Figure:
    """Traces over two axes; the legend, if any, lies above the plot. `height` is in pixels."""
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "showlegend": legend,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
            "hovermode": "closest",
            "barmode": "overlay",
            "xaxis": _axis(x),
            "yaxis": _axis(y),
        },
    }


def line(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    hover: Sequence[str],
    *,
    color: str,
    style: int = 0,
    markers: bool = True,
    ends: tuple[Values, Values] | None = None,
) -> Trace:
    """A line through points; None in `y` breaks it.

    `hover` has one text a point, `ends` the lower and upper ends of its vertical bars; `style` distinguishes
    lines of one colour.
    """
    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": plain(name),
        "x": list(x),
        "y": list(y),
        **_hover(hover),
        "line": {"color": color, "width": 2, "dash": _DASHES[style % len(_DASHES)]},
        "marker": {"color": color, "size": 7, "symbol": _SYMBOLS[style % len(_SYMBOLS)]},
    }
    if ends is not None:
        trace["error_y"] = _error_bars(y, ends, color, thickness=1.5, cap=4)
    return trace


def reference(name: str, x: Sequence[float], level: float) -> Trace:
    """A thin grey level line over the range of `x`."""
    ends = [min(x), max(x)] if x else []
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": ends,
        "y": [level] * len(ends),
        "hoverinfo": "name",
        "line": {"color": GREY, "width": 1.5, "dash": "dash"},
    }


def bars(
    name: str,
    centres: Sequence[float],
    heights: Sequence[float],
    width: float,
    hover: Sequence[str],
    *,
    color: str,
    opacity: float = 1.0,
    ends: tuple[Values, Values] | None = None,
) -> Trace:
    """Bars of one width, in the units of the axis; `ends` are those of their intervals."""
    trace: Trace = {
        "type": "bar",
        "name": plain(name),
        "x": list(centres),
        "y": list(heights),
        "width": width,
        **_hover(hover),
        "textposition": "none",
        "marker": {"color": color, "opacity": opacity, "line": {"width": 0}},
    }
    if ends is not None:
        trace["error_y"] = _error_bars(heights, ends, GREY, thickness=1.5, cap=4)
    return trace


def intervals(
    name: str,
    labels: Sequence[str],
    middle: Values,
    ends: tuple[Values, Values],
    hover: Sequence[str],
    *,
    colors: Sequence[str],
    thickness: float = 2,
    cap: float = 5,
) -> Trace:
    """Horizontal dots with intervals, one row a label; a missing end leaves the dot alone."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": list(middle),
        "y": _in_two_lines(labels),
        **_hover(hover),
        "marker": {"color": list(colors), "size": 9},
        "error_x": _error_bars(middle, ends, GREY, thickness=thickness, cap=cap),
    }


def strokes(name: str, labels: Sequence[str], x: Values, hover: Sequence[str], *, color: str = GREY) -> Trace:
    """A short upright stroke in each label's row."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": list(x),
        "y": _in_two_lines(labels),
        **_hover(hover),
        "marker": {"symbol": "line-ns-open", "size": 16, "color": color, "line": {"width": 3}},
    }


def points(
    name: str, x: Values, y: Values, hover: Sequence[str], *, color: str, opacity: float = 0.6
) -> Trace:
    """A cloud of small dots."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": list(x),
        "y": list(y),
        **_hover(hover),
        "marker": {"color": color, "size": 5, "opacity": opacity},
    }


def heatmap(
    x: Sequence[str],
    y: Sequence[float],
    z: Sequence[Values],
    hover: Sequence[Sequence[str]],
    *,
    limit: float,
) -> Trace:
    """Cells, a row for each `y`; colours end at ± `limit`, and None leaves a cell empty."""
    return {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": [list(row) for row in z],
        "text": [list(row) for row in hover],
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, ORANGE], [0.5, _FAINT], [1, BLUE]],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": ".2~g"},
    }


def _in_two_lines(labels: Sequence[str]) -> list[str]:
    """Row labels broken after a colon, so that a phone has width left for the plot."""
    return [plain(label).replace(": ", ":<br>", 1) for label in labels]


def _hover(texts: Sequence[str]) -> Trace:
    return {"text": list(texts), "hovertemplate": "%{text}<extra></extra>"}


def _error_bars(
    middle: Values, ends: tuple[Values, Values], color: str, *, thickness: float, cap: float
) -> Trace:
    lengths = [
        (None, None) if m is None or low is None or high is None else (m - low, high - m)
        for m, low, high in zip(middle, *ends, strict=True)
    ]
    return {
        "type": "data",
        "symmetric": False,
        "arrayminus": [below for below, _ in lengths],
        "array": [above for _, above in lengths],
        "color": color,
        "thickness": thickness,
        "width": cap,
    }


def _axis(axis: Axis) -> dict[str, Any]:
    # The margin grows with the tick labels, so that a phone's width is not spent on empty margins.
    # Grid lines serve as ticks, also beside a heatmap, where plotly.js would draw strokes.
    layout: dict[str, Any] = {"title": {"text": axis.title}, "automargin": True, "ticks": ""}
    if axis.tickformat:
        layout["tickformat"] = axis.tickformat
    if axis.from_zero:
        layout["rangemode"] = "tozero"
    if axis.is_log:
        layout["type"] = "log"
    if axis.tickvals:
        layout["tickmode"] = "array"
        layout["tickvals"] = list(axis.tickvals)
        if len(axis.tickvals) > _MOST_LEVEL_TICKS:
            # plotly.js would turn labels for lack of room, which changes the room, and so on.
            layout["tickangle"] = -45
    if axis.is_category:
        layout["type"] = "category"
        layout["showgrid"] = False
    if axis.top_down:
        layout["autorange"] = "reversed"
    if axis.span:
        layout["range"] = list(axis.span)
    return layout
