"""Legality and edits against a slow transcription of docs/specification/scoring.md#legality."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.actions import Action, apply_action, is_legal_at, legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError
from tests.context.strategies import is_legal, legal_maps, light, possible_actions, shown_nodes, some_of

TREE = TreeShape(block_size=4, max_level=2)
tails = st.sampled_from((0, 1, 4, 7, 16, 128))


def reverse(action: Action) -> Action:
    return Action("collapse" if action.kind == "expand" else "expand", action.node)


@light
@given(legal_maps(), tails)
def test_the_legal_actions_are_exactly_those_of_the_definition(lod_map, protected_tail):
    found = legal_actions(lod_map, protected_tail)
    candidates = possible_actions(lod_map, range(lod_map.tree.max_level + 2))
    assert len(set(found)) == len(found)
    shown = set(shown_nodes(lod_map))
    assert set(found) == {a for a in candidates if is_legal(a, lod_map, shown, protected_tail)}


@light
@given(legal_maps())
def test_every_legal_action_replaces_a_node_by_its_children_or_the_reverse(lod_map):
    before = shown_nodes(lod_map)
    for action in some_of(legal_actions(lod_map, 0)):
        children = list(lod_map.tree.children(action.node))
        old, new = ([action.node], children) if action.kind == "expand" else (children, [action.node])
        at = before.index(old[0])
        assert before[at : at + len(old)] == old
        after = apply_action(lod_map, action)
        assert shown_nodes(after) == before[:at] + new + before[at + len(old) :]
        assert {node.level for node in old} == {action.entry_level}
        assert {node.level for node in new} == {action.level_after}


@light
@given(legal_maps())
def test_an_action_then_its_reverse_gives_the_map_back(lod_map):
    for action in some_of(legal_actions(lod_map, 0)):
        after = apply_action(lod_map, action)
        assert after != lod_map
        assert reverse(action) in legal_actions(after, 0)
        assert apply_action(after, reverse(action)) == lod_map


@light
@given(legal_maps())
def test_the_change_in_positions_equals_the_change_of_the_context_s_length(lod_map):
    for action in some_of(legal_actions(lod_map, 0)):
        change = apply_action(lod_map, action).num_entries - lod_map.num_entries
        assert action.change_in_positions(lod_map.tree) == change
        assert (change > 0) == (action.kind == "expand")


@light
@given(legal_maps())
def test_an_edit_never_moves_another_entry(lod_map):
    def positions(some_map: LODMap) -> dict[Node, int]:
        return dict(zip(shown_nodes(some_map), some_map.entries.position_N(some_map.start), strict=True))

    before = positions(lod_map)
    for action in some_of(legal_actions(lod_map, 0)):
        after = positions(apply_action(lod_map, action))
        kept = before.keys() & after.keys()
        assert len(kept) >= len(before) - lod_map.tree.block_size
        assert all(before[node] == after[node] for node in kept)


@light
@given(legal_maps())
def test_an_action_that_the_map_does_not_allow_cannot_be_applied(lod_map):
    legal = set(legal_actions(lod_map, 0))
    candidates = possible_actions(lod_map, range(1, lod_map.tree.max_level + 2))
    for action in some_of([action for action in candidates if action not in legal], 20):
        with pytest.raises(LegalityError):
            apply_action(lod_map, action)


@pytest.mark.parametrize("kind", ["expand", "collapse"])
@pytest.mark.parametrize("start", [0, 8])
def test_a_token_can_neither_expand_nor_collapse(kind, start):
    lod_map = LODMap.of_tokens(TREE, start, 32)
    with pytest.raises(LegalityError, match=r"level 0|level=0"):
        apply_action(lod_map, Action(kind, Node(0, 9)))


def test_a_gist_of_the_coarsest_level_cannot_collapse_further():
    lod_map = LODMap(TREE, 0, 64, np.full(16, 2, dtype=np.uint8))
    assert {action.kind for action in legal_actions(lod_map, 0)} == {"expand"}
    with pytest.raises(LegalityError, match="level 3"):
        apply_action(lod_map, Action("collapse", Node(3, 0)))


def test_siblings_at_different_levels_do_not_collapse():
    lod_map = LODMap(TREE, 0, 16, np.array([1, 1, 0, 1], dtype=np.uint8))
    collapses = [action.node for action in legal_actions(lod_map, 0) if action.kind == "collapse"]
    assert collapses == [Node(1, 2)]


def test_a_node_whose_first_siblings_lie_before_the_start_does_not_collapse():
    lod_map = LODMap(TREE, 8, 32, np.ones(6, dtype=np.uint8))
    assert [a.node for a in legal_actions(lod_map, 0) if a.kind == "collapse"] == [Node(2, 1)]


def test_a_block_the_cursor_cuts_does_not_collapse():
    lod_map = LODMap.of_tokens(TREE, 0, 11)
    assert [a.node.index for a in legal_actions(lod_map, 0)] == [0, 1]


@pytest.mark.parametrize(("protected_tail", "last"), [(0, 7), (1, 6), (4, 6), (5, 5), (32, None), (99, None)])
def test_the_protected_tail_never_collapses(protected_tail, last):
    found = [action.node.index for action in legal_actions(LODMap.of_tokens(TREE, 0, 32), protected_tail)]
    assert found == ([] if last is None else list(range(last + 1)))


def test_a_gist_in_the_protected_tail_can_still_expand():
    lod_map = LODMap(TREE, 0, 16, np.ones(4, dtype=np.uint8))
    assert [(a.kind, a.node.index) for a in legal_actions(lod_map, 128)] == [("expand", i) for i in range(4)]


@light
@given(legal_maps(), tails)
def test_legal_actions_are_ordered_expands_first_then_by_level_oldest_first(lod_map, protected_tail):
    found = legal_actions(lod_map, protected_tail)
    kinds = [action.kind for action in found]
    assert kinds == sorted(kinds, reverse=True)
    expands = [lod_map.tree.span(a.node)[0] for a in found if a.kind == "expand"]
    collapses = [a.node for a in found if a.kind == "collapse"]
    assert expands == sorted(expands)
    assert collapses == sorted(collapses)


def test_an_expand_counts_from_the_nodes_end_and_a_collapse_from_the_tails_end():
    node = Node(1, 4)  # tokens [16, 20)
    assert is_legal_at(Action("expand", node), TREE, cursor=20, protected_tail=8)
    assert not is_legal_at(Action("expand", node), TREE, cursor=19, protected_tail=8)
    assert is_legal_at(Action("collapse", node), TREE, cursor=28, protected_tail=8)
    assert not is_legal_at(Action("collapse", node), TREE, cursor=27, protected_tail=8)
