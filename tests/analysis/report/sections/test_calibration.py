"""Calibration of checkpoints in the section on scorers: a dot a tenth, in nats per token, with intervals."""

import pytest
from plotly.graph_objects import Figure

from mctrace.analysis.report.sections.scorer_agreement import scorer_section

AGREEMENT = [
    {
        "scorer": "net",
        "scope": scope,
        "document_id": document,
        "spearman": 0.5,
        "num_labels": 8,
        "num_rankings": 1,
    }
    for scope in ("kind", "snapshot")
    for document in ("a", "b")
]


def tenth(number: int, stderr: float | None) -> dict[str, object]:
    return {
        "scorer": "net", "tenth": number, "num_labels": 4, "num_documents": 2 if stderr else 1,
        "mean_score": float(number), "mean_value": 0.01 * number, "value_stderr": stderr,
    }  # fmt: skip


def test_scores_are_shown_in_nats_beside_what_was_measured() -> None:
    rows = [tenth(1, 0.002), tenth(2, None)]
    section = scorer_section(AGREEMENT, [], "Judged.", rows, {"net": 0.05})
    (plot,) = [plot for plot in section.plots if plot.title == "Calibration of net"]
    found, reference = plot.figure["data"]
    assert found["x"] == pytest.approx([0.05, 0.1])
    assert found["y"] == [0.01, 0.02]
    assert found["error_y"]["array"] == [pytest.approx(0.004), None]
    assert "interval +0.0060 to +0.0140" in found["text"][0]
    assert "interval" not in found["text"][1]
    assert reference["x"] == reference["y"]
    assert "8 labels, at most 2 documents a tenth" in plot.counted
    Figure(plot.figure)  # plotly accepts it


def test_a_net_whose_scores_are_no_values_has_no_calibration() -> None:
    section = scorer_section(AGREEMENT, [], "Judged.", [tenth(1, 0.002)], {})
    assert not [plot for plot in section.plots if plot.title.startswith("Calibration")]
