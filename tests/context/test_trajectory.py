"""Trajectories: several cursors on one map, and the actions legal at each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.actions import Action, is_legal_at, legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError
from tests.context.strategies import legal_maps, light

TREE = TreeShape(block_size=4, max_level=2)
HEAD = LODMap(TREE, 16, 48, np.array([2, 2, 2, 2, 1, 0, 0, 0], dtype=np.uint8))


@pytest.mark.parametrize(
    ("cursors", "horizon", "why"),
    [
        ((), 8, "the first cursor must be the map's cursor 48"),
        ((44, 48), 8, "the first cursor must be the map's cursor 48"),
        ((48, 48), 8, "must increase strictly"),
        ((48, 56, 52), 8, "must increase strictly"),
        ((48,), 0, "horizon must be at least 1 token, got 0"),
    ],
)
def test_an_impossible_trajectory_is_refused_with_the_reason(cursors, horizon, why):
    with pytest.raises(LegalityError, match=why):
        Trajectory(HEAD, cursors, horizon)


def test_a_trajectory_ends_a_horizon_after_its_last_cursor_and_counts_positions_from_its_start():
    trajectory = Trajectory(HEAD, (48, 55, 60), horizon=10)
    assert (trajectory.first_cursor, trajectory.last_cursor, trajectory.end) == (48, 60, 70)
    assert trajectory.num_positions == 70 - 16


def test_an_effect_begins_at_the_first_cursor_or_at_the_end_of_its_node():
    trajectory = Trajectory(HEAD, (48, 60), horizon=10)
    assert trajectory.first_token_after(HEAD.tree.span(Node(2, 1))[1]) == 48
    assert trajectory.first_token_after(HEAD.tree.span(Node(1, 11))[1]) == 48
    assert trajectory.first_token_after(HEAD.tree.span(Node(1, 12))[1]) == 52
    assert trajectory.first_token_after(HEAD.tree.span(Node(1, 14))[1]) == 60


def test_blocks_of_the_tail_become_collapsible_for_the_later_cursors_only():
    trajectory = Trajectory(HEAD, (48, 60), horizon=10)
    in_tail = Action("collapse", Node(1, 12))
    assert in_tail in trajectory.legal_actions(8)
    assert in_tail not in legal_actions(HEAD, 8)
    assert not is_legal_at(in_tail, TREE, 48, 8)
    assert is_legal_at(in_tail, TREE, 60, 8)


@light
@given(legal_maps(), st.lists(st.integers(1, 40), max_size=3), st.sampled_from((0, 3, 8, 64)))
def test_each_snapshot_gets_exactly_the_trajectory_actions_that_are_legal_at_its_cursor(
    head, steps, protected_tail
):
    cursors = (head.cursor, *(head.cursor + np.cumsum(steps, dtype=int)).tolist())
    trajectory = Trajectory(head, cursors, horizon=4)
    shared = trajectory.legal_actions(protected_tail)
    for cursor in cursors:
        legal = {a for a in shared if is_legal_at(a, head.tree, cursor, protected_tail)}
        assert legal == set(legal_actions(head.extended(cursor), protected_tail))
    assert all(any(is_legal_at(a, head.tree, cursor, protected_tail) for cursor in cursors) for a in shared)


@light
@given(legal_maps(), st.integers(0, 40))
def test_an_effect_is_measured_somewhere_within_the_last_horizon(head, more):
    trajectory = Trajectory(head, (head.cursor, head.cursor + more) if more else (head.cursor,), horizon=1)
    for action in trajectory.legal_actions(0):
        first = trajectory.first_token_after(head.tree.span(action.node)[1])
        assert trajectory.first_cursor <= first <= trajectory.last_cursor
        assert first >= head.tree.span(action.node)[1]
