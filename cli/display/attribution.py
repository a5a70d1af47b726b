"""An attribution in a terminal: the text coloured by value, then its parts by the size of their effect."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mctrace.analysis.report.formatting import counted, nats, number, total_nats
from mctrace.analysis.snapshots.visible_text import excerpt, visible
from mctrace.attribution.result import AttributionResult
from mctrace.attribution.shades import shades
from mctrace.cli.display.tables import print_table

_HELPS, _HURTS = (70, 130, 200), (215, 120, 50)
_PAPER = (245, 246, 248)
"""the background of no effect; text on it is black, in dark terminals too"""
_TEXT_WIDTH = 60
"""columns of a part's text in the table"""


def print_attribution(attribution: AttributionResult, console: Console, *, top: int) -> None:
    """Print the heatmap where there are colours, then the `top` parts, and why others were not measured."""
    if console.is_terminal and not console.no_color:
        console.print(_heatmap(attribution), soft_wrap=True)
        console.print(_legend())
    measured = attribution.ranked
    whose = "what follows it" if attribution.target is None else "the target"
    done = "left out" if attribution.against == "drop" else "replaced by its gist"
    estimated = ", estimated by gradient" if attribution.estimator == "gradient" else ""
    title = (
        f"{min(top, len(measured)):,} of {counted(len(measured), attribution.unit)} by how much "
        f"the loss of {whose} rises when one is {done}{estimated}; "
        f"{attribution.model}, {counted(len(attribution.tokens), 'token')}"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("nats", "± stderr", "per token", "tokens after", "at token"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True)
    for unit in measured[:top]:
        cells = (total_nats(unit.nats), number(unit.stderr), nats(unit.nats_per_token))
        table.add_row(
            *cells, f"{unit.num_following:,}", f"{unit.first:,}", Text(excerpt(unit.text, _TEXT_WIDTH))
        )
    print_table(table, console)
    reasons = [unit.unmeasured for unit in attribution.units if unit.nats is None]
    for reason in dict.fromkeys(reasons):
        line = f"{counted(reasons.count(reason), attribution.unit)} not measured: {reason}"
        console.print(line, style="dim", highlight=False, soft_wrap=True)


def _heatmap(attribution: AttributionResult) -> Text:
    shown = Text()
    strengths = shades([unit.nats for unit in attribution.units])
    for unit, strength in zip(attribution.units, strengths, strict=True):
        shown.append(visible(unit.text), "dim" if strength is None else f"black on {_colour(strength)}")
    if attribution.target is not None:
        shown.append("\n→ ", "bold").append(visible(attribution.target), "bold")
    return shown


def _legend() -> Text:
    legend = Text("\nmisleads ", "dim")
    for strength in (-1.0, -0.5, 0.0, 0.5, 1.0):
        legend.append("   ", f"on {_colour(strength)}")
    return legend.append(" helps what follows\n", "dim")


def _colour(strength: float) -> str:
    end = _HELPS if strength > 0 else _HURTS
    mixed = (round(a + (b - a) * abs(strength)) for a, b in zip(_PAPER, end, strict=True))
    return f"rgb({','.join(map(str, mixed))})"
