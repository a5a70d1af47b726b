"""Section on single snapshots: the document's text with level, measured value and scores of each span."""

from collections.abc import Sequence
from typing import Any

from mctrace.analysis.report.formatting import count, counted, nats, number, text
from mctrace.analysis.report.page import Section
from mctrace.analysis.report.sections.store import NO_LABELS
from mctrace.analysis.snapshots.view import ActionView, SnapshotView, SpanView
from mctrace.analysis.snapshots.visible_text import visible
from mctrace.context.tree import ABSENT


def snapshot_section(snapshots: Sequence[SnapshotView], chosen: bool) -> Section:
    """A viewer of snapshots; `chosen`: named by the user, not picked by `snapshot_choice.sql`."""
    title = "Single snapshots"
    if not snapshots:
        return Section("snapshots", title, [NO_LABELS])
    picked = (
        "They were named on the command line."
        if chosen
        else "One a document, picked for having many labels beyond two standard errors: they show what "
        "strong labels look like, not what labels look like on average. Held-out documents come first."
    )
    return Section(
        "snapshots",
        title,
        [
            f"{counted(len(snapshots), 'working context')} as the base model saw them, oldest text first: "
            "tokens as they are, gists as the text they stand for (in italics), absent blocks in grey. "
            "Colour shows the measured value: blue where detail helps, orange where the coarse form does "
            f"better. {picked}"
        ],
        snapshots=[_plain(snapshot) for snapshot in snapshots],
    )


def _plain(snapshot: SnapshotView) -> dict[str, Any]:
    """A snapshot as `snapshots.js` reads it; null where there is no number."""
    where = snapshot.lod_map
    return {
        "id": snapshot.snapshot_id,
        "title": visible(f"{snapshot.source} · cursor {count(where.cursor)} · {snapshot.policy}"),
        "cursor": where.cursor,
        "facts": [
            ["snapshot", _short(snapshot.snapshot_id)],
            ["split", text(snapshot.split)],
            ["policy", snapshot.policy],
            ["context, tokens", f"{count(where.start)} to {count(where.cursor)}"],
            ["positions", count(where.num_positions)],
            ["base loss, nats/token", number(snapshot.baseline_nll)],
            ["horizon, tokens", count(snapshot.horizon)],
            ["price of an edit", nats(snapshot.edit_price)],
        ],
        "scorers": [visible(name) for name in snapshot.scorers],
        "problem": visible(snapshot.text_problem),
        "spans": [_span(span) for span in snapshot.spans],
        "actions": [_action(found) for found in snapshot.actions],
    }


def _short(snapshot_id: str) -> str:
    """The beginning of the id, enough for the command line, with its cursor."""
    trajectory, _, cursor = snapshot_id.partition(":")
    return f"{trajectory[:10]}:{cursor}"


def _span(span: SpanView) -> dict[str, Any]:
    return {
        "level": span.level,
        "absent": span.level == ABSENT,
        "index": span.index,
        "first": span.first_token,
        "end": span.end_token,
        "entries": span.num_entries,
        "expand": span.expand,
        "collapse": span.collapse,
        "text": visible(span.text),
    }


def _action(found: ActionView) -> dict[str, Any]:
    measured = found.measured
    return {
        "kind": found.action.kind,
        "level": found.action.node.level,
        "index": found.action.node.index,
        "first": found.first_token,
        "end": found.end_token,
        "distance": found.distance_to_cursor,
        "positions": found.positions,
        "value": measured and measured.value_of_detail,
        "delta": measured and measured.delta_nll,
        "stderr": measured and measured.stderr,
        "priced": measured and measured.priced,
        "literal": measured and measured.literal,
        "probability": measured and measured.inclusion_probability,
        "estimator": measured and measured.estimator,
        "attention": measured and measured.attention_mass,
        "information": measured and measured.information_value,
        "gist": measured and measured.gist_value,
        "scores": list(found.scores.values()),
    }
