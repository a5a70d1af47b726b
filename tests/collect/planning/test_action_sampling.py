"""Sampling of actions: even over the strata, known probabilities, unbiased sums."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.collect.planning.action_sampling import (
    inclusion_probabilities,
    sample_actions,
    systematic_sample,
)
from mctrace.context.actions import Action
from mctrace.context.tree import Node
from mctrace.seeding import generator_for
from tests.context.strategies import light

Stratum = tuple[str, int]
STRATA: tuple[Stratum, ...] = (("expand", 1), ("expand", 2), ("collapse", 1), ("collapse", 2))


def actions_of(*sizes: int) -> list[Action]:
    return [
        Action(kind, Node(level, index))
        for (kind, level), size in zip(STRATA, sizes, strict=True)
        for index in range(size)
    ]


def stratum(action: Action) -> Stratum:
    return action.kind, action.node.level


def sampled_sizes(sizes: tuple[int, ...], max_actions: int) -> tuple[int, ...]:
    sampled = sample_actions(actions_of(*sizes), max_actions, generator_for("sizes"))
    counts = Counter(stratum(s.action) for s in sampled)
    return tuple(counts[key] for key in STRATA)


@pytest.mark.parametrize(
    ("sizes", "max_actions", "expected"),
    [
        ((50, 50, 50, 50), 20, (5, 5, 5, 5)),
        ((50, 2, 50, 0), 20, (9, 2, 9, 0)),
        ((1, 1, 100, 1), 20, (1, 1, 17, 1)),
        ((0, 0, 100, 0), 20, (0, 0, 20, 0)),
        ((10, 3, 40, 5), 21, (6, 3, 7, 5)),
        ((50, 2, 50, 2), 21, (8, 2, 9, 2)),
        ((3, 3, 3, 3), 12, (3, 3, 3, 3)),
    ],
)
def test_strata_are_sampled_evenly_small_ones_whole_and_a_remainder_from_the_largest(
    sizes, max_actions, expected
):
    assert sampled_sizes(sizes, max_actions) == expected


sizes_of_strata = st.lists(st.integers(0, 30), min_size=4, max_size=4)


@light
@given(sizes_of_strata, st.integers(4, 60), st.integers())
def test_what_holds_of_every_sample(sizes, max_actions, seed):
    actions = actions_of(*sizes)
    sampled = sample_actions(actions, max_actions, generator_for(seed))
    chosen = [s.action for s in sampled]
    assert len(chosen) == min(max_actions, len(actions))
    places = [actions.index(action) for action in chosen]
    assert places == sorted(set(places)), "the order is kept and nothing is drawn twice"
    for key, size in zip(STRATA, sizes, strict=True):
        probabilities = {s.inclusion_probability for s in sampled if stratum(s.action) == key}
        number = sum(stratum(action) == key for action in chosen)
        assert (number > 0) == (size > 0)
        if number:
            (probability,) = probabilities
            assert probability * size == pytest.approx(number)


@light
@given(sizes_of_strata, st.integers(4, 60))
def test_no_stratum_gets_fewer_than_another_that_is_not_larger(sizes, max_actions):
    found = sampled_sizes(tuple(sizes), max_actions)
    for size, number in zip(sizes, found, strict=True):
        assert number == size or number >= max(found) - 1


def test_all_actions_are_measured_when_there_is_no_maximum_or_room_for_all():
    actions = actions_of(3, 2, 4, 1)
    for max_actions in (None, 10, 11):
        sampled = sample_actions(actions, max_actions, generator_for("all"))
        assert [s.action for s in sampled] == actions
        assert {s.inclusion_probability for s in sampled} == {1.0}
    assert sample_actions([], 5, generator_for("none")) == []


@pytest.mark.parametrize("max_actions", [1, 3, 9])
def test_a_sum_weighted_by_inverse_probability_is_right_on_average(max_actions):
    actions = actions_of(12, 2, 20, 6)
    value = {action: float(i % 7) for i, action in enumerate(actions)}
    estimates = [
        sum(
            value[s.action] / s.inclusion_probability for s in sample_actions(actions, max_actions, generator)
        )
        for generator in (generator_for("unbiased", seed) for seed in range(1500))
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(sum(value.values()), abs=4 * error)


def test_each_action_is_chosen_as_often_as_its_probability_says():
    actions = actions_of(12, 2, 20, 6)
    times: Counter[Action] = Counter()
    probabilities: dict[Action, float] = {}
    for seed in range(1500):
        for s in sample_actions(actions, 9, generator_for("often", seed)):
            times[s.action] += 1
            probabilities[s.action] = s.inclusion_probability
    assert set(times) == set(actions)
    for action in actions:
        assert times[action] / 1500 == pytest.approx(probabilities[action], abs=0.06)


def test_a_sample_depends_on_its_generator_alone():
    actions = actions_of(12, 2, 20, 6)
    draws = [sample_actions(actions, 9, generator_for("key", seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


weights_of_members = st.lists(st.sampled_from((0.0, 0.1, 1.0, 5.0, 1000.0)), min_size=1, max_size=30)


@light
@given(weights_of_members, st.data())
def test_weighted_inclusion_sums_to_the_sample_and_keeps_every_action_possible(weights, data):
    size = data.draw(st.integers(1, len(weights)))
    inclusion_M = inclusion_probabilities(np.array(weights), size)
    assert inclusion_M.sum() == pytest.approx(size)
    assert inclusion_M.max() <= 1
    assert inclusion_M.min() >= min(1.0, size / len(weights) / 2) - 1e-9
    order = np.argsort(weights, kind="stable")
    assert (np.diff(inclusion_M[order]) >= -1e-12).all(), "what weighs more is not drawn less"


def test_the_last_bits_of_weights_change_neither_probabilities_nor_the_sample():
    weight_M = np.log(np.arange(2, 60, dtype=float)) ** 4
    exact = inclusion_probabilities(weight_M, 9)
    for factor in (1 + 4e-16, 1 - 4e-16):
        other = inclusion_probabilities(np.where(np.arange(58) % 3, weight_M, weight_M * factor), 9)
        assert exact.tolist() == other.tolist()
    drawn = [systematic_sample(inclusion_M, generator_for("bits")) for inclusion_M in (exact, other)]
    assert drawn[0].tolist() == drawn[1].tolist()


def test_what_weighs_far_more_than_all_others_is_certain():
    inclusion_M = inclusion_probabilities(np.array([0, 0, 0, 0, 0, 0, 0, 1e9]), 4)
    assert inclusion_M[-1] == 1
    assert inclusion_M[:-1] == pytest.approx(3 / 7)


def test_a_systematic_sample_draws_each_place_as_often_as_its_probability_says():
    inclusion_M = np.array([0.05, 0.9, 1.0, 0.3, 0.25, 0.5])
    drawn = [systematic_sample(inclusion_M, generator_for("comb", seed)) for seed in range(3000)]
    assert {len(places) for places in drawn} == {3}
    assert all((np.diff(places) > 0).all() for places in drawn)
    share_M = np.bincount(np.concatenate(drawn), minlength=6) / 3000
    assert share_M == pytest.approx(inclusion_M, abs=0.03)


@pytest.mark.parametrize("max_actions", [3, 9])
def test_a_weighted_sample_is_larger_where_weights_are_and_unbiased_all_the_same(max_actions):
    actions = actions_of(12, 2, 20, 6)
    value = {action: float(i % 7) for i, action in enumerate(actions)}
    weight_A = np.array([100.0 if i % 10 == 3 else 1.0 for i in range(len(actions))])
    drawn = [
        sample_actions(actions, max_actions, generator_for("weighted", seed), weight_A)
        for seed in range(1500)
    ]
    assert {len(sample) for sample in drawn} == {max_actions}
    estimates = [sum(value[s.action] / s.inclusion_probability for s in sample) for sample in drawn]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(sum(value.values()), abs=4 * error)
    heavy = {action for action, weight in zip(actions, weight_A, strict=True) if weight > 1}
    share = np.mean([[s.action in heavy for s in sample] for sample in drawn])
    assert share > 2 * len(heavy) / len(actions)
