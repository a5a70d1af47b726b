"""LOD maps of the policies: fixed shapes by hand, random ones by what must hold of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.collect.planning.map_policies import random_map, recency_map
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.seeding import generator_for
from tests.context.strategies import light, shown_nodes, trees

K4 = TreeShape(block_size=4, max_level=2)


def runs(lod_map: LODMap) -> list[tuple[int, int]]:
    """(level, blocks in a row), oldest first."""
    edges = np.flatnonzero(np.diff(lod_map.levels.astype(int))) + 1
    return [(int(part[0]), len(part)) for part in np.split(lod_map.levels, edges)]


@pytest.mark.parametrize(
    ("start", "cursor", "expected"),
    [
        # 16 newest tokens, then 32 at level 1, the rest at level 2.
        (0, 96, [(2, 12), (1, 8), (0, 4)]),
        # The level-2 region would end inside a node: its last complete node ends four tokens earlier.
        (0, 100, [(2, 12), (1, 9), (0, 4)]),
        # The cursor cuts a block: the newest 16 tokens begin inside one, which stays at level 0.
        (0, 102, [(2, 12), (1, 9), (0, 5)]),
        # A start between level-2 nodes: what no whole node covers stays at level 1.
        (20, 100, [(1, 3), (2, 4), (1, 9), (0, 4)]),
        # No room for level 2, none for level 1, none for a block.
        (64, 100, [(1, 5), (0, 4)]),
        (84, 100, [(0, 4)]),
        (96, 99, [(0, 1)]),
    ],
)
def test_the_recency_map_by_hand(start, cursor, expected):
    assert runs(recency_map(K4, start, cursor, (16, 32))) == expected


def test_the_default_recency_map_keeps_256_tokens_and_64_gists_before_the_coarse_rest():
    lod_map = recency_map(TreeShape(32, 2), 0, 8192, (256, 2048))
    # Level 2 may cover [0, 8192 - 2304) = [0, 5888): five whole nodes, 5120 tokens.
    assert runs(lod_map) == [(2, 5 * 32), (1, (7936 - 5120) // 32), (0, 8)]
    assert lod_map.num_entries == 5 + 88 + 256
    with_window = recency_map(TreeShape(32, 2), 4096, 8192, (256, 2048))
    assert runs(with_window) == [(2, 32), (1, 88), (0, 8)]


def test_a_tree_of_one_level_has_its_rest_at_level_1():
    assert runs(recency_map(TreeShape(4, 1), 0, 96, (16, 32))) == [(1, 20), (0, 4)]


def test_the_rest_is_at_the_coarsest_level_however_many_numbers_are_given():
    assert runs(recency_map(K4, 0, 96, (16,))) == [(2, 20), (0, 4)]
    three_levels = TreeShape(4, 3)
    assert runs(recency_map(three_levels, 0, 160, (16, 32))) == [(3, 16), (2, 12), (1, 8), (0, 4)]


@light
@given(trees(), st.data())
def test_a_recency_map_shows_nothing_coarser_than_its_age_allows(tree, data):
    start = data.draw(st.integers(0, 20)) * tree.block_size
    cursor = start + data.draw(st.integers(1, 3 * tree.block_size**2))
    level_tokens = data.draw(st.lists(st.integers(0, 200), min_size=3, max_size=3))
    lod_map = recency_map(tree, start, cursor, level_tokens)
    for node in shown_nodes(lod_map):
        age = cursor - tree.span(node)[1]
        assert node.level == 0 or age >= sum(level_tokens[: node.level])


def compress(tree: TreeShape, start: int, cursor: int, *key: str | int, **settings: int) -> LODMap:
    choices = {"target_length": 60, "protected_tail": 16, "num_iterations": 3, **settings}
    return random_map(tree, start, cursor, generator=generator_for(*key), **choices)


def shortest_length(tree: TreeShape, start: int, cursor: int, protected_tail: int) -> int:
    """Entries of the coarsest context that keeps its tail: walk through it with the widest nodes."""
    num_entries, token = 0, start
    while token < cursor:
        widths = [tree.block_size**level for level in range(tree.max_level, 0, -1)]
        fits = (w for w in widths if token % w == 0 and token + w <= cursor - protected_tail)
        token += next(fits, 1)
        num_entries += 1
    return num_entries


@light
@given(trees(), st.data())
def test_a_random_map_meets_its_target_where_that_can_be_met_and_keeps_its_tail(tree, data):
    start = data.draw(st.integers(0, 2 * tree.block_size)) * tree.block_size
    cursor = start + data.draw(st.integers(1, 600))
    target, tail = data.draw(st.integers(1, 400)), data.draw(st.sampled_from((0, 1, 16, 40)))
    lod_map = compress(
        tree, start, cursor, data.draw(st.integers()), target_length=target, protected_tail=tail
    )
    assert (lod_map.start, lod_map.cursor) == (start, cursor)
    assert lod_map.num_entries <= max(target, shortest_length(tree, start, cursor, tail))
    newest = lod_map.entries.end_token_N > cursor - tail
    assert not lod_map.entries.level_N[newest].any()


def test_a_random_map_depends_on_its_key_alone():
    one, again, other = (compress(K4, 0, 256, *key) for key in [("a", 0), ("a", 0), ("a", 1)])
    assert one == again
    assert one != other


def test_random_maps_differ_and_show_every_level_and_every_action():
    maps = [compress(K4, 0, 256, "map", seed) for seed in range(20)]
    assert len(set(maps)) == 20
    assert {level for lod_map in maps for level in lod_map.levels.tolist()} == {0, 1, 2}


def test_later_rounds_bring_detail_far_from_the_cursor():
    def mean_far_level(num_iterations: int) -> float:
        keys = [("rounds", seed) for seed in range(40)]
        maps = [compress(K4, 0, 256, *key, target_length=96, num_iterations=num_iterations) for key in keys]
        return float(np.mean([lod_map.levels[:32] for lod_map in maps]))

    assert mean_far_level(4) < mean_far_level(1) - 0.1


def test_a_window_within_its_target_stays_what_the_coarse_nodes_left_of_it():
    lod_map = compress(K4, 0, 64, "short", target_length=64, num_iterations=1)
    assert set(lod_map.levels.tolist()) <= {0, 2}
