"""Trees whose gists take several positions: costs of actions, lengths of maps, budgets."""

import numpy as np
import pytest

from mctrace.collect.planning.map_policies import random_map, recency_map_within
from mctrace.context.actions import apply_action, legal_action_arrays, legal_actions
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.tree import AnchoredTree, TreeShape, tree_of

K, M, TAIL = 4, 3, 8


@pytest.fixture(params=["off", "tokens", "gist"])
def maps(request):
    tree, chance = AnchoredTree(K, 2, request.param, M), np.random.default_rng(0)
    return [
        random_map(tree, 16, 150, target_length=80, protected_tail=TAIL, num_iterations=3, generator=chance)
        for _ in range(8)
    ]


def test_an_action_changes_a_map_s_positions_by_what_it_says(maps):
    num_kinds = set()
    for lod_map in maps:
        before = lod_map.num_positions
        entries = lod_map.entries
        assert before == sum(lod_map.tree.positions_of(level) for level in entries.level_N.tolist())
        assert lod_map.num_entries == len(entries)
        arrays = legal_action_arrays(lod_map, TAIL)
        actions = legal_actions(lod_map, TAIL)
        assert arrays.positions_A(lod_map.tree).tolist() == [a.positions(lod_map.tree) for a in actions]
        for action in actions:
            assert apply_action(lod_map, action).num_positions - before == action.change_in_positions(
                lod_map.tree
            )
            assert action.positions(lod_map.tree) > 0
            num_kinds.add((action.kind, action.node.level))
    assert len(num_kinds) >= 4


def test_random_and_recency_maps_keep_to_a_budget_in_positions(maps):
    assert all(lod_map.num_positions <= 80 for lod_map in maps)
    found = recency_map_within(maps[0].tree, 16, 150, 70, TAIL)
    assert 70 - K * (K - 1) * M < found.num_positions <= 70


def test_the_allocator_frees_and_spends_positions(maps):
    for lod_map in maps:
        chance = np.random.default_rng(1)
        candidates = candidates_of(lod_map, TAIL, chance.normal(size=len(lod_map.nodes)))
        for budget in (lod_map.num_positions, lod_map.num_positions - 9):
            done = allocate(lod_map, candidates, budget, AllocatorConfig())
            assert done.lod_map.num_positions <= budget


def test_a_gist_of_one_position_is_the_plain_tree():
    assert tree_of(K, 2, "off", 1) == TreeShape(K, 2)
    assert tree_of(K, 2, "off", 2) != TreeShape(K, 2)
    assert tree_of(K, 2, "off", 2) == AnchoredTree(K, 2, "off", 2)
