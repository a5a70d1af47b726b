"""value_by_metadata.sql, and its plots on the report, against numbers worked out by hand."""

import json
from math import sqrt
from pathlib import Path

import pytest

from mctrace.analysis.questions.catalogue import run_analysis
from mctrace.analysis.report.sections.value_by_origin import origin_section
from mctrace.datasets.sql.connection import connect, fetch_rows
from tests.analysis.synthetic import Measured, Trajectory, write_store

SAYS = {
    "a": {"language": "de", "stars": 1, "tags": ["x"]},
    "b": {"language": "de", "stars": 2},
    "c": {"language": "fr", "stars": 3},
    "d": {"language": "fr", "is_code": True},
    "e": {"language": "nl"},
    "f": None,
}


def trajectory(name: str, *measured: Measured) -> Trajectory:
    says = SAYS[name]
    return Trajectory(name, "train", measured, metadata=None if says is None else json.dumps(says))


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory):
    trajectories = [
        trajectory(
            "a",
            Measured("expand", 1, 4, 0.5, probability=0.5),
            Measured("expand", 1, 5, 0.25),
            Measured("collapse", 1, 8, 0.25),
        ),
        trajectory("b", Measured("expand", 1, 4, 0.0)),
        trajectory("c", Measured("expand", 1, 4, -0.25)),
        trajectory("d", Measured("expand", 1, 4, -0.75)),
        trajectory("e", Measured("expand", 1, 4, 1.0)),
        trajectory("f", Measured("expand", 1, 4, 1.0)),
    ]
    return connect(write_store(tmp_path_factory.mktemp("store") / "store", trajectories).at())


def test_means_are_weighted_and_clustered_by_document(connection):
    rows = run_analysis(connection, "value_by_metadata")
    # nl, every number of stars and is_code are one document's; tags are no value.
    assert [(row["metadata_column"], row["value"], row["action"]) for row in rows] == [
        ("language", "de", "expand"),
        ("language", "fr", "expand"),
        ("language", "de", "collapse"),
    ]
    de, fr, collapse = rows
    assert (de["num_labels"], de["num_documents"]) == (3, 2)
    assert de["mean"] == pytest.approx((2 * 0.5 + 0.25) / 4)
    # a's residuals add up to 2 (0.5 - m) + (0.25 - m), b's to -m.
    mean = 1.25 / 4
    assert de["mean_stderr"] == pytest.approx(sqrt(2 * ((1.25 - 3 * mean) ** 2 + mean**2)) / 4)
    assert fr["mean"] == pytest.approx(-0.5)
    assert fr["mean_abs"] == pytest.approx(0.5)
    assert fr["mean_stderr"] == pytest.approx(0.25)
    assert collapse["mean_stderr"] is None


def test_the_most_frequent_values_alone(connection):
    assert {row["value"] for row in run_analysis(connection, "value_by_metadata", most_values=1)} == {"de"}


def test_metadata_in_sql(connection):
    rows = fetch_rows(
        connection,
        "select metadata->>'language' as language, count(*) as n from documents group by all order by all",
    )
    assert [(row["language"], row["n"]) for row in rows] == [("de", 2), ("fr", 2), ("nl", 1), (None, 1)]


def test_the_report_has_a_plot_for_each_column(connection):
    (plot,) = [plot for plot in origin_section(connection).plots if plot.title == "By language"]
    (trace,) = plot.figure["data"]
    assert trace["y"] == ["de:<br>expand, level 1", "fr:<br>expand, level 1", "de:<br>collapse, level 0"]
    assert plot.counted == "6 labels; de 2 documents, fr 2 documents"


def test_without_metadata_there_is_nothing(tmp_path: Path):
    bare = write_store(tmp_path / "store", [Trajectory("f", "train", [Measured("expand", 1, 4, 1.0)])])
    assert run_analysis(connect(bare.at()), "value_by_metadata") == []
