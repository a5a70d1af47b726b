"""Section on single documents over time: what each block of text was worth at each cursor."""

from collections.abc import Mapping, Sequence

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import Axis, figure, heatmap, plain
from mctrace.analysis.report.formatting import count, counted, nats, number, text
from mctrace.analysis.report.page import Plot, Section
from mctrace.analysis.report.sections.store import NO_LABELS
from mctrace.analysis.snapshots.visible_text import excerpt, visible
from mctrace.datasets.sql.connection import fetch_rows
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.errors import StoreError

_MOST_CHARACTERS = 90
"""of a block's text in its hover"""
_PIXELS = 5
"""height of a block"""
_FULL_COLOR = 0.98
"""share of a document's values that are within the colours' ends"""


def time_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """A heatmap, text by cursors, of a document or two."""
    title = "A document over time"
    rows = run_analysis(connection, "value_over_time")
    if not rows:
        no_time = "No document has labels at several cursors (collect.cursors_per_trajectory)."
        (any_label,) = fetch_rows(connection, "select exists(from labels) as found")
        return Section("time", title, [no_time if any_label["found"] else NO_LABELS])
    documents: dict[str, list[Row]] = {}
    for row in rows:
        documents.setdefault(row["document_id"], []).append(row)
    return Section(
        "time",
        title,
        [
            "The same text is asked for at some moments and at others not: each column is a cursor, a moment "
            "of reading, and each line a block of the text before it. Shown are documents with labels at the "
            "most cursors, held-out ones first."
        ],
        plots=[
            _plot(found, _block_texts(connection, identity, found)) for identity, found in documents.items()
        ],
    )


def _block_size(rows: Sequence[Row]) -> int:
    return min(int(row["end_token"] - row["first_token"]) for row in rows)


def _block_texts(
    connection: duckdb.DuckDBPyConnection, identity: str, rows: Sequence[Row]
) -> Mapping[int, str]:
    """Beginning of each block's text by its first token; nothing where the store has no vocabulary."""
    asked = "select tokens, tokenizer_hash from document_tokens where document_id = $1"
    try:
        (found,) = fetch_rows(connection, asked, identity)[:1]
        ends = range(_block_size(rows), len(found["tokens"]) + 1, _block_size(rows))
        spans = Detokenizer(connection).spans(found["tokenizer_hash"], found["tokens"], ends)
    except StoreError:
        return {}
    return {
        end - _block_size(rows): excerpt(span, _MOST_CHARACTERS)
        for end, span in zip(ends, spans, strict=True)
    }


def _plot(rows: Sequence[Row], texts: Mapping[int, str]) -> Plot:
    size = _block_size(rows)
    cursors = sorted({row["cursor"] for row in rows})
    blocks = range(min(row["first_token"] for row in rows), max(row["end_token"] for row in rows), size)
    values: dict[tuple[int, int], Row] = {}
    # Coarse nodes come first, so that a block measured itself stands before the node around it.
    for row in rows:
        for first in range(row["first_token"], row["end_token"], size):
            values[first, row["cursor"]] = row
    sizes = sorted(abs(row["value"]) for row in rows)
    limit = sizes[int(_FULL_COLOR * (len(sizes) - 1))] or 1.0
    return Plot(
        visible(rows[0]["source"]),
        figure(
            [
                heatmap(
                    [f"{cursor:,}" for cursor in cursors],
                    list(blocks),
                    [[_value(values.get((first, cursor))) for cursor in cursors] for first in blocks],
                    [
                        [_hover(values.get((first, cursor)), texts.get(first, "")) for cursor in cursors]
                        for first in blocks
                    ],
                    limit=limit,
                )
            ],
            Axis("cursor, tokens", is_category=True),
            Axis("token at which a block begins", top_down=True),
            height=max(260, 120 + _PIXELS * len(blocks)),
            legend=False,
        ),
        "Blue where a block's detail lowers the loss of the tokens after that cursor, orange where it raises "
        "it, empty where nothing was measured; a streak along a line is a block that stays worth its detail.",
        f"{counted(sum(row['num_labels'] for row in rows), 'label')} at {counted(len(cursors), 'cursor')}, "
        f"{text(rows[0]['split'])} split",
    )


def _value(row: Row | None) -> float | None:
    return None if row is None else row["value"]


def _hover(row: Row | None, block: str) -> str:
    if row is None:
        return ""
    noise = "" if row["stderr"] is None else f" ± {number(row['stderr'])}"
    return (
        f"tokens {count(row['first_token'])} to {count(row['end_token'])}, at {count(row['cursor'])}<br>"
        f"{nats(row['value'])}{noise} nats per token ({row['actions']})<br>{plain(block)}"
    )
