"""The short form of `make chaos`: a few kills, and nothing is lost, doubled, dangling or different."""

import random

from mctrace.datasets.store.store import open_store
from tests.chaos import NUM_ACTORS, Findings, Scene, compare, kill_until


def test_a_run_that_is_killed_and_started_again_leaves_what_an_undisturbed_one_leaves(tmp_path):
    scene = Scene.set_up(tmp_path, per_document=6)
    scene.finish(scene.start(tmp_path / "whole", "--no-ray"))
    kills = kill_until(scene, tmp_path / "killed", 3, random.Random(0))
    found = compare(open_store(str(tmp_path / "killed")), open_store(str(tmp_path / "whole")))
    assert kills >= 1
    assert found.parts_repeated <= kills * (2 * NUM_ACTORS + 4)
    assert found == Findings(parts_repeated=found.parts_repeated)
