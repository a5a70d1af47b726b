"""Weights of actions by shared words: which spans they prefer, and that the plan uses them."""

from dataclasses import replace

import numpy as np

from mctrace.collect.planning.document_plan import plan_document
from mctrace.collect.planning.word_overlap import overlap_weights
from mctrace.context.actions import Action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from tests.collect.making import PROVENANCE, make_document, small_config

TREE = TreeShape(4, 2)
NAME, COMMON = 900, 1
"""a token that two blocks share, and one that all do"""


def trajectory_of(num_blocks: int, horizon: int = 8) -> Trajectory:
    levels = np.ones(num_blocks, dtype=np.uint8)
    return Trajectory(LODMap(TREE, 0, 4 * num_blocks, levels), (4 * num_blocks, 4 * num_blocks + 4), horizon)


def tokens_of(trajectory: Trajectory, *places: int) -> np.ndarray:
    """Tokens that occur once, but for the first of every block, and the name at `places`."""
    tokens_T = np.arange(1000, 1000 + trajectory.end)
    tokens_T[::4] = COMMON
    tokens_T[list(places)] = NAME
    return tokens_T


def expands(num_blocks: int) -> list[Action]:
    return [Action("expand", Node(1, index)) for index in range(num_blocks)]


def test_a_span_counts_for_the_rare_tokens_that_it_shares_with_what_is_read_next():
    trajectory = trajectory_of(12)
    tokens_T = tokens_of(trajectory, 4 * 2 + 1, trajectory.end - 1)
    weight_A = overlap_weights(trajectory, expands(6), tokens_T)
    assert weight_A.argmax() == 2
    assert np.flatnonzero(weight_A).tolist() == [2], "what every block holds says nothing"


def test_what_was_just_read_counts_and_what_lies_further_back_does_not():
    trajectory = trajectory_of(12)
    for block, counts in ((11, True), (7, True), (6, False)):
        weight_A = overlap_weights(trajectory, expands(3), tokens_of(trajectory, 5, 4 * block + 2))
        assert (weight_A[1] > 0) == counts, block


def test_tokens_after_the_last_horizon_change_nothing():
    trajectory = trajectory_of(12)
    tokens_T = tokens_of(trajectory, 5, trajectory.end - 1)
    longer_T = np.concatenate([tokens_T, [1001] * 40])
    actions = [*expands(6), Action("collapse", Node(2, 1))]
    assert (
        overlap_weights(trajectory, actions, tokens_T) == overlap_weights(trajectory, actions, longer_T)
    ).all()


def test_sampling_by_overlap_measures_spans_that_even_sampling_rarely_draws():
    """The document's end repeats an early block; in most seeds an even sample of a quarter misses it."""
    found = {}
    for sampling in ("even", "overlap"):
        config = small_config(
            action_sampling=sampling, policies=("recency",), trajectories_per_document=1, max_actions=4,
            last_tokens=1,
        )  # fmt: skip
        found[sampling] = 0
        for seed in range(20):
            document = replace(make_document(300, seed), tokens=np.arange(300, dtype=np.int32))
            (blank,) = plan_document(document, replace(config, max_actions=None), PROVENANCE)
            expanded = next(s.action for s in blank.actions if s.action.kind == "expand")
            first, end = PROVENANCE.tree.span(expanded.node)
            tokens_T = document.tokens.copy()
            cursor = blank.trajectory.first_cursor
            tokens_T[cursor : cursor + end - first] = tokens_T[first:end]
            (planned,) = plan_document(replace(document, tokens=tokens_T), config, PROVENANCE)
            found[sampling] += expanded in [s.action for s in planned.actions]
            assert all(0 < s.inclusion_probability <= 1 for s in planned.actions)
    assert found["overlap"] > found["even"] + 4, found
