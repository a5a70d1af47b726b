"""Screened runs: every action estimated, a sample measured exactly, and weighted answers unbiased."""

import numpy as np
import pytest

from mctrace.collect.config import CollectConfig
from mctrace.collect.planning.action_sampling import Screening
from mctrace.context.actions import Action
from mctrace.context.tree import Node
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.errors import ConfigError
from tests.collect.runs import tiny_run

SCREENED = {"collect.action_sampling": "screened", "collect.max_actions": 4, "corpus.limit": 4}


def test_estimates_screen_and_the_exact_sample_alone_is_labels(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **SCREENED)
    run.measure()
    connection = connect(run.store.at())
    effects = fetch_rows(connection, "from effects")
    screening = [row for row in effects if row["inclusion_probability"] is None]
    exact = [row for row in effects if row["inclusion_probability"] is not None]
    assert {row["estimator"] for row in screening} == {"gradient"}
    assert {row["estimator"] for row in exact} == {"exact"}
    legal = fetch_rows(connection, "select sum(num_legal_actions) as n from trajectories")
    assert len(screening) == legal[0]["n"] > len(exact)
    assert {row["estimator"] for row in fetch_rows(connection, "from labels")} == {"exact"}
    assert 0 < min(row["inclusion_probability"] for row in exact) < 1
    assert run.measure().run_id is None, "the same command finds everything done"


def test_the_view_adds_weighted_differences_to_all_estimates(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **SCREENED)
    run.measure()
    connection = connect(run.store.at())
    labels = fetch_rows(connection, "from labels")
    rows = fetch_rows(connection, "from difference_estimates")
    assert sum(row["num_exact"] for row in rows) == len(labels)
    for row in rows:
        mine = [
            one for one in labels if (one["action"], one["node_level"]) == (row["action"], row["node_level"])
        ]
        total = sum(one["delta_nll"] / one["inclusion_probability"] for one in mine)
        assert row["weighted_mean"] == pytest.approx(total / row["num_labels"])
        variance = sum(
            (1 - one["inclusion_probability"]) * (one["delta_nll"] / one["inclusion_probability"]) ** 2
            for one in mine
        )
        assert row["weighted_stderr"] == pytest.approx(variance**0.5 / row["num_labels"])


def test_weighted_sums_and_differences_are_right_on_average_and_differences_vary_less():
    """The mean, the share beyond a threshold, and the difference estimate, over many draws of the sample."""
    generator = np.random.default_rng(0)
    exact_A = generator.standard_t(3, 60) * 0.02
    estimate_A = 0.7 * exact_A + generator.normal(0, 0.005, 60)
    actions = [Action("collapse", Node(1, i)) for i in range(60)]
    draws = []
    for seed in range(3000):
        sample = Screening(15, ("test", seed)).sample(actions, np.abs(estimate_A))
        index = np.array([one.action.node.index for one in sample])
        weight = 1 / np.array([one.inclusion_probability for one in sample])
        difference = estimate_A.sum() + (weight * (exact_A - estimate_A)[index]).sum()
        beyond = (weight * (np.abs(exact_A[index]) > 0.02)).sum()
        draws.append(((weight * exact_A[index]).sum(), beyond, difference))
    means, spreads = np.mean(draws, axis=0), np.std(draws, axis=0)
    truth = np.array([exact_A.sum(), (np.abs(exact_A) > 0.02).sum(), exact_A.sum()])
    assert (np.abs(means - truth) < 4 * spreads / len(draws) ** 0.5).all()
    assert spreads[2] < 0.7 * spreads[0]


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_actions": 4, "estimator": "gradient"}, {"max_actions": 4, "drop_controls": True}],
)
def test_what_cannot_be_screened_is_refused(settings):
    with pytest.raises(ConfigError, match="action_sampling screened"):
        CollectConfig(action_sampling="screened", **settings)
