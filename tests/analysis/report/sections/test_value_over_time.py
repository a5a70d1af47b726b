"""Heatmap of a document: text by cursors."""

from pathlib import Path

from mctrace.analysis.report.sections.value_over_time import time_section
from mctrace.datasets.sql.connection import connect
from tests.analysis.synthetic import BLOCK_SIZE, FIRST_CURSOR, Measured, Trajectory, write_store

WITH_TIME = Trajectory(
    "held-out",
    "test",
    [Measured("expand", 2, 0, 0.25), Measured("expand", 1, 4, -0.5), Measured("collapse", 1, 1, 0.125)],
    cursors=(FIRST_CURSOR, FIRST_CURSOR + 8),
    source="<b>",
)


def section_of(folder: Path, *trajectories: Trajectory):
    return time_section(connect(write_store(folder / "store", trajectories).at()))


def test_a_cell_is_the_value_of_a_block_at_a_cursor(tmp_path):
    longer = Trajectory(
        "seen", "train", WITH_TIME.measured, cursors=(FIRST_CURSOR, FIRST_CURSOR + 4, FIRST_CURSOR + 8)
    )
    plot, _ = section_of(tmp_path, longer, WITH_TIME).plots
    (trace,) = plot.figure["data"]
    assert plot.title == "<b>"
    assert trace["x"] == ["64", "72"]
    assert trace["y"] == [index * BLOCK_SIZE for index in range(5)]
    # A level-2 node stands for its four blocks, but for the one that was measured itself.
    assert trace["z"] == [[0.25, 0.25], [0.125, 0.125], [0.25, 0.25], [0.25, 0.25], [-0.5, -0.5]]
    assert trace["text"][4][1] == "tokens 16 to 20, at 72<br>−0.5000 ± 0 nats per token (expand)<br>fox"
    assert plot.counted == "6 labels at 2 cursors, test split"
    assert (trace["zmin"], trace["zmax"]) == (-0.5, 0.5)


def test_without_several_cursors_there_is_one_sentence(tmp_path):
    once = Trajectory("a", "train", [Measured("expand", 1, 4, 1.0)])
    section = section_of(tmp_path, once)
    assert "several cursors" in section.paragraphs[0]
    assert not section.plots
