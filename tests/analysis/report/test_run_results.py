"""Readers of a run folder: files that the trainer writes, and malformed ones."""

import json
import math
from pathlib import Path

import pytest

from mctrace.analysis.report.run_results import Score, read_held_out, read_training_curves
from mctrace.analysis.report.sections.training_run import MOST_POINTS, evaluation_section, training_section
from mctrace.train.loop.telemetry import JsonlSink


def write_metrics(folder: Path, *lines: str) -> Path:
    folder.joinpath("metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_reads_what_the_trainer_writes(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "metrics.jsonl") as sink:
        sink.write(10, "train", {"loss": 2.0, "lr": 0.1})
        sink.write(20, "train", {"loss": math.nan, "lr": 0.1})
        sink.write(20, "validation", {"loss": 1.5, "utility_correlation": 0.25})
    found = read_training_curves(tmp_path)
    assert found is not None
    assert found.curves == {
        "loss": {"train": [(10, 2.0), (20, None)], "validation": [(20, 1.5)]},
        "lr": {"train": [(10, 0.1), (20, 0.1)]},
        "utility_correlation": {"validation": [(20, 0.25)]},
    }
    assert (found.last_step, found.num_unreadable) == (20, 0)


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    write_metrics(
        tmp_path, '{"step": 1, "loss": 1}', "", "[3]", '{"loss": 2}', "nonsense", '{"step": 2, "los'
    )
    found = read_training_curves(tmp_path)
    assert found is not None
    assert (found.curves, found.num_unreadable) == ({"loss": {"train": [(1, 1.0)]}}, 4)


def test_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    write_metrics(tmp_path, '{"step": 2, "loss": 1}', '{"step": 1, "loss": 3}', '{"step": 2, "loss": 5}')
    found = read_training_curves(tmp_path)
    assert found is not None
    assert found.curves["loss"]["train"] == [(1, 3.0), (2, 5.0)]


def test_metrics_without_a_number_are_left_out(tmp_path: Path) -> None:
    write_metrics(tmp_path, '{"step": 1, "loss": NaN, "note": "x", "flag": true, "mse": null}')
    found = read_training_curves(tmp_path)
    assert found is not None
    assert found.curves == {}
    assert "no numbers" in training_section(tmp_path).paragraphs[0]


def test_any_metric_gets_a_plot_and_long_curves_are_thinned(tmp_path: Path) -> None:
    write_metrics(tmp_path, *(json.dumps({"step": step, "unheard_of": step}) for step in range(1, 2502)))
    section = training_section(tmp_path)
    (plot,) = section.plots
    (trace,) = plot.figure["data"]
    assert len(trace["x"]) <= MOST_POINTS
    assert (trace["x"][0], trace["x"][-1]) == (1, 2501)
    assert plot.counted.startswith("2,501 train points, thinned")


def test_reads_an_evaluation_with_and_without_intervals(tmp_path: Path) -> None:
    full = {"mean": 0.5, "low": 0.25, "high": 0.75, "num_documents": 12}
    content = {
        "checkpoints": ["runs/a/best", "runs/b/best"],
        "split": "test",
        "target": "priced",
        "num_snapshots": 40,
        "scorers": {
            "lensnet": {"mse": full},
            "recency": {"mse": {"mean": 1}, "gone": {"mean": None}, "odd": 3, "nan": {"mean": math.nan}},
            "empty": None,
        },
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    found = read_held_out(tmp_path)
    assert found is not None
    assert found.checkpoints == ("runs/a/best", "runs/b/best")
    assert (found.split, found.target, found.num_snapshots) == ("test", "priced", 40)
    assert found.scores == (
        Score("lensnet", "mse", 0.5, 0.25, 0.75, 12),
        Score("recency", "mse", 1.0, None, None, None),
    )
    assert found.num_unreadable == 3
    (table,) = evaluation_section(tmp_path).tables
    assert table.rows == [["mse", "lensnet", "0.5", "0.25 to 0.75", "12"], ["mse", "recency", "1", "–", "–"]]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"scorers": 3}', '{"scorers": {"a": {"mse": {}}}}'])
def test_an_evaluation_without_scores_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content, encoding="utf-8")
    section = evaluation_section(tmp_path)
    assert "no scores that can be read" in section.paragraphs[0]
    assert not section.plots


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    assert read_training_curves(tmp_path) is None
    assert read_held_out(tmp_path) is None
    for section in (training_section(tmp_path), evaluation_section(tmp_path)):
        assert "has no" in section.paragraphs[0]
    for section in (training_section(None), evaluation_section(None)):
        assert section.paragraphs == ["No training run was given: add one with --run FOLDER."]
