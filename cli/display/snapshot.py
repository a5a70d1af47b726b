"""One snapshot in a terminal: its LOD map as a line of blocks, and what edits are worth."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from mctrace.analysis.report.formatting import MISSING, count, counted, nats, number
from mctrace.analysis.snapshots.scored_snapshot import ScoredSnapshot
from mctrace.analysis.snapshots.view import ActionView, SnapshotView, SpanView
from mctrace.analysis.snapshots.visible_text import excerpt, visible
from mctrace.context.actions import SHOWS_MORE, Action

_LEVEL_BLOCKS = "█▒░·"
_LEVEL_STYLES = ("green", "yellow", "magenta", "dim")
_HEIGHTS = "▁▂▃▄▅▆▇█"
_HELPS, _HURTS = "blue", "dark_orange"
_UNMEASURED = "·"
_LINE_WIDTH = 100
"""columns of the map where no terminal says how many there are"""
_NAME_WIDTH = 16
_LEAST_TEXT, _MOST_TEXT = 32, 72
"""columns of an action's text: below the first it has a line of its own"""


def print_snapshot(snapshot: ScoredSnapshot, console: Console, *, top: int, all_actions: bool) -> None:
    """Print a snapshot's facts and map, then its `top` expands and collapses, or all legal actions."""
    view, plan = snapshot.view, snapshot.would
    _print_header(view, snapshot.later, console)
    _print_map(view, console)
    if all_actions:
        title = f"All {counted(len(view.actions), 'legal action')}"
        _print_actions(view, plan, title, view.actions, console)
        return
    measured = [action for action in view.actions if action.measured]
    for shows_more, title, sign in (
        (True, "Edits that show more, worth most", -1),
        (False, "Edits that show less, cost least", 1),
    ):
        of_kind = [action for action in measured if action.action.shows_more == shows_more]
        of_kind.sort(key=lambda action: sign * (action.measured.value_of_detail if action.measured else 0))
        legal = sum(action.action.shows_more == shows_more for action in view.actions)
        shown = of_kind[:top]
        _print_actions(view, plan, f"{title}: {len(shown)} of {count(legal)} legal", shown, console)


def _print_header(snapshot: SnapshotView, others: Sequence[str], console: Console) -> None:
    where = snapshot.lod_map
    num_measured = sum(action.measured is not None for action in snapshot.actions)
    lines = [
        f"{visible(snapshot.source)}  {snapshot.split or 'no split'}, policy {snapshot.policy}",
        f"snapshot {snapshot.snapshot_id}",
        f"tokens {count(where.start)} to {count(where.cursor)} in {count(where.num_positions)} positions; "
        f"base loss {number(snapshot.baseline_nll)} nats/token over the next {snapshot.horizon}",
        f"{count(num_measured)} of {counted(len(snapshot.actions), 'legal action')} measured; an edit has to "
        f"be worth {nats(snapshot.edit_price)} nats/token",
    ]
    if others:
        shown = ", ".join(other.partition(":")[2] for other in others)
        lines.append(f"the same map stands at later cursors, too: {shown}")
    if snapshot.text_problem:
        lines.append(f"no text: {visible(snapshot.text_problem)}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_map(snapshot: SnapshotView, console: Console) -> None:
    """One column for one or more blocks: its level, and the strongest value and score there."""
    columns = _columns(
        snapshot, max(20, (console.width if console.is_terminal else _LINE_WIDTH) - _NAME_WIDTH)
    )
    levels = Text()
    for spans in columns:
        level = min(*(span.level for span in spans), len(_LEVEL_BLOCKS) - 1)
        levels.append(_LEVEL_BLOCKS[level], _LEVEL_STYLES[level])
    console.print()
    _print_row("level", levels, console)
    rows: list[tuple[str, Callable[[ActionView], float | None]]] = [("value", _value)]
    rows += [(name, _score_of(name)) for name in snapshot.scorers]
    for name, number_of in rows:
        strongest = [_strongest(snapshot, spans, number_of) for spans in columns]
        scale = max((abs(value) for value in strongest if value is not None), default=0.0)
        for sign, style, side in ((1, _HELPS, "+"), (-1, _HURTS, "−")):
            bars = Text("".join(_bar(value, sign, scale) for value in strongest), style)
            _print_row(f"{excerpt(name, _NAME_WIDTH - 4)} {side}", bars, console)
        console.print(
            f"{'':{_NAME_WIDTH}}a full block is {number(scale)}, half its height a quarter of that"
            + (f"; nats/token, {_UNMEASURED} not measured" if name == "value" else "; score units"),
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    ends = f"{count(snapshot.lod_map.start)}", f"{count(snapshot.lod_map.cursor)} cursor"
    gap = max(1, len(columns) - len(ends[0]) - len(ends[1]))
    console.print(f"{'tokens':{_NAME_WIDTH}}{ends[0]}{' ' * gap}{ends[1]}", highlight=False, soft_wrap=True)
    console.print(
        f"{'':{_NAME_WIDTH}}{_LEVEL_BLOCKS[0]} tokens  {_LEVEL_BLOCKS[1]} gist of a block  "
        f"{_LEVEL_BLOCKS[2]} gist of gists;  + detail helps (expand it, keep it)  "
        "− the coarse form does better",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _columns(snapshot: SnapshotView, most: int) -> list[list[SpanView]]:
    """The spans seen in each column of the map; columns are of one width, in blocks."""
    where = snapshot.lod_map
    size = where.tree.block_size
    num_blocks = -(-(where.cursor - where.start) // size)
    per_column = -(-num_blocks // most)
    ends = np.array([span.end_token for span in snapshot.spans])
    columns = []
    for first_block in range(0, num_blocks, per_column):
        first = where.start + first_block * size
        last = min(where.cursor, first + per_column * size) - 1
        places = np.searchsorted(ends, [first, last], side="right")
        columns.append(list(snapshot.spans[places[0] : places[1] + 1]))
    return columns


def _value(action: ActionView) -> float | None:
    return action.measured.value_of_detail if action.measured else None


def _score_of(scorer: str) -> Callable[[ActionView], float | None]:
    return lambda action: action.scores[scorer]


def _strongest(
    snapshot: SnapshotView, spans: Sequence[SpanView], number_of: Callable[[ActionView], float | None]
) -> float | None:
    """The number that is largest in size: of expanding a gist, of collapsing tokens."""
    places = [span.expand if span.level else span.collapse for span in spans]
    numbers = [number_of(snapshot.actions[place]) for place in places if place is not None]
    return max((value for value in numbers if value is not None), key=abs, default=None)


def _bar(value: float | None, sign: int, scale: float) -> str:
    if value is None:
        return _UNMEASURED if sign > 0 else " "
    if value * sign <= 0:
        return " "
    # By the square root: values have a heavy tail, and beside the largest all others would look like nothing.
    return _HEIGHTS[min(len(_HEIGHTS) - 1, int(len(_HEIGHTS) * (abs(value) / scale) ** 0.5))]


def _print_row(name: str, row: Text, console: Console) -> None:
    console.print(Text(f"{name:{_NAME_WIDTH}}").append_text(row), soft_wrap=True, highlight=False)


def _print_actions(
    snapshot: SnapshotView,
    plan: Mapping[Action, str],
    title: str,
    actions: Sequence[ActionView],
    console: Console,
) -> None:
    """A line an action and what the allocator would do; its text beside it where there is room."""
    heads = ["edit", "node", "distance", "ΔNLL", "± stderr", "value", "positions", "priced"]
    rows = [[*heads, *(excerpt(name, 16) for name in snapshot.scorers), "would"]]
    rows += [_cells(action, plan) for action in actions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = console.width - sum(widths) - 2 * len(widths) if console.is_terminal else _MOST_TEXT
    is_beside = room >= _LEAST_TEXT
    texts = ["text" if is_beside else ""]
    texts += [
        excerpt(snapshot.text_of(action), min(_MOST_TEXT, room if is_beside else console.width - 6))
        for action in actions
    ]
    console.print()
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    for place, (cells, text) in enumerate(zip(rows, texts, strict=True)):
        line = Text(style="dim" if place == 0 else "")
        for number_of, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            is_word = number_of in (0, len(cells) - 1)
            line.append(f"{cell:{'<' if is_word else '>'}{width}}  ")
        if text and not is_beside:
            line.append("\n      ")
        console.print(line.append(text, "dim" if place == 0 else "italic"), soft_wrap=True, highlight=False)


def _cells(action: ActionView, plan: Mapping[Action, str]) -> list[str]:
    kind, node, measured = action.action.kind, action.action.node, action.measured
    numbers = [MISSING] * 3
    if measured:
        numbers = [nats(measured.delta_nll), number(measured.stderr), nats(measured.value_of_detail)]
    return [
        kind,
        f"{node.level}:{node.index}",
        count(action.distance_to_cursor),
        *numbers,
        f"{'+' if kind in SHOWS_MORE else '−'}{action.positions}",
        nats(measured.priced) if measured else MISSING,
        *(f"{score:+z.3f}".replace("-", "−") for score in action.scores.values()),
        plan[action.action],
    ]
