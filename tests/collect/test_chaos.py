"""The short form of `make chaos`: a few kills, and nothing is lost, doubled, dangling or different."""

import random

import pytest

from tests.chaos.findings import Findings
from tests.chaos.fixture import Fixture
from tests.chaos.kill_collect_actors import kill_collect_actors

pytestmark = pytest.mark.slow


def test_a_run_that_is_killed_and_started_again_leaves_what_an_undisturbed_one_leaves(tmp_path):
    found = kill_collect_actors(Fixture.set_up(tmp_path, per_document=6), 3, random.Random(0))
    assert found == Findings(kills=3, parts_repeated=found.parts_repeated)
