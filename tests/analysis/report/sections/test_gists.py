"""Two GistNets in one store: compared only on questions measured with both."""

import pytest

from mctrace.analysis.questions.catalogue import run_analysis
from mctrace.analysis.report.sections.gists import gist_sections
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.store.parts import write_part
from tests.analysis import synthetic
from tests.analysis.synthetic import Measured, Trajectory

SHARED = [Measured("expand", 1, 4, 0.5), Measured("collapse", 1, 8, 0.25)]


def write_as(store, gists: str, measured) -> None:
    """One more run of document `a`, measured with other gists."""
    trajectory = Trajectory("a", "train", measured)
    identity = {"run_id": f"run-{gists}", "gist_hash": gists}
    rows = {
        "runs": [
            {**synthetic._run(f"run-{gists}", event, 0), **identity, "gist_source": f"{gists}-net"}
            for event in ("start", "end")
        ],
        "documents": [{**synthetic._document(trajectory), "gist_hash": gists}],
        "trajectories": [
            {**synthetic._trajectory(trajectory, f"run-{gists}"), **identity, "trajectory_id": gists}
        ],
        "effects": [{**synthetic._effect(trajectory, m), "trajectory_id": gists} for m in measured],
    }
    part = write_part(store.location, part_id=gists, kind="traces", run_id=f"run-{gists}", tables=rows)
    store.commit([part])


@pytest.fixture
def mean_store(tmp_path):
    return synthetic.write_store(
        tmp_path / "store", [Trajectory("a", "train", [*SHARED, Measured("expand", 1, 5, 4.0)])]
    )


def test_a_store_of_one_gistnet_has_no_such_section(connection):
    assert gist_sections(connection) == []


def test_only_questions_measured_with_each_are_compared(mean_store):
    write_as(mean_store, "better", [Measured("expand", 1, 4, 0.125), Measured("collapse", 1, 8, 0.0625)])
    with connect(mean_store.at()) as connection:
        rows = run_analysis(connection, "gist_values")
        (section,) = gist_sections(connection)
    found = {(row["gist_hash"], row["action"]): (row["num_labels"], row["mean"], row["p50"]) for row in rows}
    assert found == {
        ("mean", "expand"): (1, 0.5, 0.5),
        ("better", "expand"): (1, 0.125, 0.125),
        ("mean", "collapse"): (1, 0.25, 0.25),
        ("better", "collapse"): (1, 0.0625, 0.0625),
    }
    assert all(row["baseline_nll"] == 2.0 for row in rows)
    assert [cells[1] for cells in section.tables[0].rows].count("better-net (better)") == 2


def test_without_common_questions_the_section_names_the_remedy(mean_store):
    write_as(mean_store, "better", [Measured("expand", 1, 6, 0.125)])
    with connect(mean_store.at()) as connection:
        (section,) = gist_sections(connection)
    assert "gists.source" in section.paragraphs[0]
