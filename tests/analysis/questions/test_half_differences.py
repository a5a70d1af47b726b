"""How often the halves of a horizon contradict each other: by chance where an effect lasts, else always."""

import numpy as np
import pytest

from mctrace.analysis.questions.catalogue import run_analysis
from tests.datasets.making import effect_row, trajectory_row, views_over

HORIZON, NUM_LABELS = 64, 400


def shares(effects: np.ndarray) -> dict[int, float]:
    """`share_beyond` by horizon of one trajectory whose collapses did this, [labels, horizon]."""
    connection = views_over(
        trajectories=[trajectory_row("t", [0] * (NUM_LABELS + 2), [(NUM_LABELS + 2) * 4], horizon=HORIZON)],
        effects=[
            effect_row("t", "collapse", 1, index, first_token=(NUM_LABELS + 2) * 4, delta_nll=row.tolist())
            for index, row in enumerate(effects)
        ],
    )
    rows = run_analysis(connection, "half_differences")
    assert {row["num_labels"] for row in rows} == {NUM_LABELS}
    return {row["horizon"]: row["share_beyond"] for row in rows}


@pytest.fixture
def chance():
    return np.random.default_rng(0)


def test_a_lasting_effect_under_independent_noise_is_contradicted_as_often_as_chance_has_it(chance):
    found = shares(0.3 + chance.normal(size=(NUM_LABELS, HORIZON)))
    assert list(found) == [8, 16, 32, 64]
    assert 0.02 < found[64] < 0.08


def test_an_effect_that_turns_is_always_contradicted(chance):
    turning = np.repeat([1.0, -1.0], HORIZON // 2) + 0.1 * chance.normal(size=(NUM_LABELS, HORIZON))
    assert shares(turning)[64] == 1
