"""The report's chapter on a closed loop: what it shows, what it says where there is nothing."""

import json

import pytest

from mctrace.analysis.report.page import Page, render_pages
from mctrace.analysis.report.sections.closed_loop import closed_loop_sections


def interval(mean: float, low: float, high: float) -> dict:
    return {"mean": mean, "low": low, "high": high, "num_documents": 7}


def summary(nll: float, gain: float, share: dict | None) -> dict:
    return {
        "nll": interval(nll, nll - 1, nll + 1),
        "less_than_recency": interval(gain, gain - 0.01, gain + 0.01),
        "share_of_hindsight": share,
        "swaps": 1.25,
        "residency": None,
        "budget_use": 0.985,
        "seconds": 0.0123,
    }


ANSWER = {
    "split": "test",
    "block_size": 32,
    "closed_loop": {"w_max": 384, "window": 3584, "refocuses": 8, "max_candidates": 24},
    "groups": {
        "stdlib": {
            "recency": summary(2.5, 0.0, None),
            "<lens>": summary(2.4, 0.1, interval(0.7, 0.6, 0.8)),
        }
    },
}


def test_every_policy_stands_in_the_table_and_in_the_plot(tmp_path):
    (tmp_path / "closed_loop.json").write_text(json.dumps(ANSWER))
    (section,) = closed_loop_sections(tmp_path)
    (table,) = section.tables
    assert table.rows[1] == [
        "<lens>", "2.4000", "+0.1000 (+0.0900 to +0.1100)", "70.0% (60.0% to 80.0%)",
        "1.25", "–", "98.5%", "12",
    ]  # fmt: skip
    (plot,) = section.plots
    assert plot.figure["data"][0]["x"] == [0.0, 0.1]
    assert plot.counted == "7 documents"
    page = render_pages("t", "s", [Page("p", "Page", [section])])
    assert "&lt;lens&gt;" in page
    assert "<lens>" not in page


@pytest.mark.parametrize(
    ("content", "num_sections"),
    [(None, 0), ("{", 1), ("[]", 1), ("{}", 0), ('{"groups": 3}', 0), ('{"groups": {"a": {"b": null}}}', 1)],
)
def test_what_is_missing_or_damaged_never_breaks_the_page(tmp_path, content, num_sections):
    if content is not None:
        (tmp_path / "closed_loop.json").write_text(content)
    found = closed_loop_sections(tmp_path)
    assert len(found) == num_sections
    assert "<html" in render_pages("t", "s", [Page("p", "Page", found)])
    assert closed_loop_sections(None) == []


def test_a_damaged_file_is_named_with_what_writes_it_again(tmp_path):
    (tmp_path / "closed_loop.json").write_bytes(b'{"groups": "\xff"}')
    (section,) = closed_loop_sections(tmp_path)
    assert section.paragraphs == [
        f"{tmp_path}/closed_loop.json is damaged: the same `mctrace evaluate --closed-loop` writes it again."
    ]
