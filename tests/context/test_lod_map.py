"""LOD maps: legality, and the entries, positions and distances of legal maps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError
from tests.context.strategies import legal_maps, light, shown_nodes, trees

TREE = TreeShape(block_size=4, max_level=2)


def levels_of(*levels: int) -> np.ndarray:
    return np.array(levels, dtype=np.uint8)


@light
@given(legal_maps())
def test_entries_are_the_nodes_of_each_token(lod_map):
    entries = lod_map.entries
    shown = [Node(*pair) for pair in zip(entries.level_N.tolist(), entries.index_N.tolist(), strict=True)]
    assert shown == shown_nodes(lod_map)
    assert lod_map.num_entries == len(entries) == len(shown)


@light
@given(legal_maps())
def test_entries_tile_the_span_from_start_to_cursor_without_gap_or_overlap(lod_map):
    entries = lod_map.entries
    assert entries.first_token_N[0] == lod_map.start
    assert entries.end_token_N[-1] == lod_map.cursor
    np.testing.assert_array_equal(entries.first_token_N[1:], entries.end_token_N[:-1])
    np.testing.assert_array_equal(entries.span_width_N, lod_map.tree.block_size**entries.level_N)


@light
@given(legal_maps())
def test_a_token_keeps_its_offset_and_a_gist_sits_at_the_centre_of_its_span(lod_map):
    positions = lod_map.entries.position_N(lod_map.start).tolist()
    for node, position in zip(shown_nodes(lod_map), positions, strict=True):
        first, end = lod_map.tree.span(node)
        width = end - first
        assert position == first - lod_map.start + (width // 2 if node.level else 0)


def test_positions_by_hand_when_the_start_is_inside_the_document_and_between_level_2_nodes():
    # Blocks 3 | 4..7 as one level-2 gist | 8 as tokens | 9 as gist | 10 cut after two tokens.
    lod_map = LODMap(TREE, 12, 42, levels_of(1, 2, 2, 2, 2, 0, 1, 0))
    assert lod_map.entries.level_N.tolist() == [1, 2, 0, 0, 0, 0, 1, 0, 0]
    assert lod_map.entries.index_N.tolist() == [3, 1, 32, 33, 34, 35, 9, 40, 41]
    assert lod_map.entries.position_N(12).tolist() == [2, 12, 20, 21, 22, 23, 26, 28, 29]
    assert lod_map.entries.distance_to_cursor_N(42).tolist() == [26, 10, 9, 8, 7, 6, 2, 1, 0]


def test_blocks_of_32_have_their_gists_at_16_and_512():
    tree = TreeShape(32, 2)
    lod_map = LODMap(tree, 0, 32 * 34, levels_of(*[2] * 32, 1, 0))
    assert lod_map.num_entries == 1 + 1 + 32
    assert lod_map.entries.position_N(0)[:3].tolist() == [512, 1024 + 16, 1024 + 32]


@light
@given(legal_maps(), st.integers(0, 80))
def test_a_map_extended_to_a_later_cursor_keeps_its_entries_and_adds_tokens(lod_map, more):
    grown = lod_map.extended(lod_map.cursor + more)
    assert shown_nodes(grown) == shown_nodes(lod_map) + [Node(0, lod_map.cursor + i) for i in range(more)]
    assert grown.num_entries == lod_map.num_entries + more
    np.testing.assert_array_equal(
        grown.entries.position_N(grown.start)[: lod_map.num_entries],
        lod_map.entries.position_N(lod_map.start),
    )


def test_a_map_cannot_shrink_to_an_earlier_cursor():
    with pytest.raises(LegalityError, match="back to 15"):
        LODMap.of_tokens(TREE, 0, 16).extended(15)


@light
@given(legal_maps())
def test_every_entry_is_found_by_its_first_token_and_the_end_by_the_cursor(lod_map):
    entries = lod_map.entries
    for position, token in enumerate(entries.first_token_N.tolist()):
        assert entries.index_of_token(token) == position
    assert entries.index_of_token(lod_map.cursor) == len(entries)


@pytest.mark.parametrize("token", [1, 5, 9])
def test_no_entry_is_found_by_a_token_inside_a_gist_or_beyond_the_context(token):
    with pytest.raises(AssertionError, match=f"token {token}"):
        LODMap(TREE, 0, 8, levels_of(1, 1)).entries.index_of_token(token)


def test_a_slice_of_the_entries_keeps_all_four_columns_in_step():
    lod_map = LODMap(TREE, 12, 42, levels_of(1, 2, 2, 2, 2, 0, 1, 0))
    part = lod_map.entries.sliced(slice(1, 3))
    assert (part.level_N.tolist(), part.index_N.tolist()) == ([2, 0], [1, 32])
    assert (part.first_token_N.tolist(), part.span_width_N.tolist()) == ([16, 32], [16, 1])


def is_tiled_by_whole_nodes(tree: TreeShape, start: int, cursor: int, levels: list[int]) -> bool:
    """Definition: each token's node lies inside the span and is at its level throughout."""
    size = tree.block_size
    for block, level in enumerate(levels, start=start // size):
        first = block * size // size**level * size**level
        end = first + size**level
        if level and not (start <= first and end <= cursor):
            return False
        covered = range(first // size - start // size, end // size - start // size) if level else ()
        if any(levels[i] != level for i in covered):
            return False
    return True


@light
@given(st.data())
def test_exactly_the_maps_that_tile_with_whole_nodes_are_legal(data):
    tree = data.draw(trees(block_sizes=(2, 3)))
    size = tree.block_size
    start = data.draw(st.integers(0, 4)) * size
    cursor = start + data.draw(st.integers(1, 6 * size))
    num_blocks = -(-(cursor - start) // size)
    # Runs of a level, so that legal maps are not rare.
    runs = st.lists(st.tuples(st.integers(0, tree.max_level), st.sampled_from((1, 2, 3, 4))), min_size=6)
    levels = [level for level, length in data.draw(runs) for _ in range(length)][:num_blocks]
    expected = is_tiled_by_whole_nodes(tree, start, cursor, levels)
    try:
        LODMap(tree, start, cursor, np.array(levels, dtype=np.uint8))
        accepted = True
    except LegalityError:
        accepted = False
    assert accepted == expected


@pytest.mark.parametrize(
    ("start", "cursor", "levels", "why"),
    [
        (-4, 8, levels_of(0, 0, 0), "start must be a multiple of block_size 4 and not negative"),
        (2, 8, levels_of(0, 0), "start must be a multiple of block_size 4"),
        (8, 8, levels_of(), "the cursor must lie after the start"),
        (8, 4, levels_of(), "the cursor must lie after the start"),
        (0, 8, levels_of(0), "one level for each of its 2 blocks, got 1"),
        (0, 9, levels_of(0, 0), "one level for each of its 3 blocks, got 2"),
        (0, 8, levels_of(0, 0, 0), "one level for each of its 2 blocks, got 3"),
        (0, 8, levels_of(0, 0).reshape(1, 2), "one level for each of its 2 blocks"),
        (0, 8, levels_of(0, 3), "level 3 does not exist, max_level is 2"),
        (0, 7, levels_of(0, 1), "the cursor cuts its last block, which can then only be level 0"),
        (0, 16, levels_of(2, 2, 2, 1), r"node \(level 2, index 0\) is only partly at its level"),
        (4, 16, levels_of(2, 2, 2), r"node \(level 2, index 0\) is only partly at its level"),
        (0, 24, levels_of(2, 2, 2, 2, 2, 2), r"node \(level 2, index 1\) is only partly at its level"),
        (0, 32, levels_of(1, 1, 2, 2, 2, 2, 1, 1), r"node \(level 2, index 0\) is only partly at its level"),
    ],
)
def test_an_illegal_map_is_refused_with_the_reason_and_the_span(start, cursor, levels, why):
    with pytest.raises(LegalityError, match=why) as refused:
        LODMap(TREE, start, cursor, levels)
    assert f"[{start}, {cursor})" in str(refused.value)


def test_a_cursor_inside_the_first_block_leaves_a_map_of_a_few_tokens():
    lod_map = LODMap.of_tokens(TREE, 8, 11)
    assert lod_map.entries.index_N.tolist() == [8, 9, 10]
    assert lod_map.num_entries == 3


@light
@given(legal_maps())
def test_the_blocks_of_a_shown_gist_are_all_at_its_level(lod_map):
    for node in set(shown_nodes(lod_map)):
        if node.level:
            blocks = lod_map.blocks_of(node)
            first, end = lod_map.tree.span(node)
            size = lod_map.tree.block_size
            assert (blocks.start + lod_map.first_block) * size == first
            assert (blocks.stop + lod_map.first_block) * size == end
            assert set(lod_map.levels[blocks].tolist()) == {node.level}


@pytest.mark.parametrize("node", [Node(1, 1), Node(2, 0), Node(1, 5), Node(2, 1)])
def test_a_node_that_reaches_out_of_the_map_has_no_blocks_there(node):
    lod_map = LODMap.of_tokens(TREE, 8, 22)
    with pytest.raises(LegalityError, match=r"not wholly inside tokens \[8, 22\)"):
        lod_map.blocks_of(node)


def test_maps_are_values():
    one, same = LODMap.of_tokens(TREE, 0, 16), LODMap(TREE, 0, 16, levels_of(0, 0, 0, 0))
    assert one == same
    assert len({one, same}) == 1
    others = [
        LODMap(TREE, 0, 16, levels_of(0, 1, 0, 0)),
        LODMap.of_tokens(TREE, 4, 16),
        LODMap.of_tokens(TREE, 0, 15),
        LODMap.of_tokens(TreeShape(4, 1), 0, 16),
    ]
    assert len({one, *others}) == 5
    assert one != "a map"


def test_the_levels_of_a_map_cannot_be_changed():
    lod_map = LODMap.of_tokens(TREE, 0, 16)
    with pytest.raises(ValueError, match="read-only"):
        lod_map.levels[0] = 1
    changed = lod_map.with_level(slice(0, 1), 1)
    assert (changed.levels.tolist(), lod_map.levels.tolist()) == ([1, 0, 0, 0], [0, 0, 0, 0])


def test_a_map_stays_as_it_is_when_the_array_it_was_made_from_changes():
    levels = levels_of(0, 0, 0, 0, 1)
    lod_map = LODMap(TREE, 0, 16, levels[:4])
    levels[0] = 1
    assert lod_map.levels.tolist() == [0, 0, 0, 0]


def test_making_a_map_leaves_the_callers_array_writable():
    levels = levels_of(0, 0, 0, 0)
    LODMap(TREE, 0, 16, levels)
    levels[0] = 1
    assert levels[0] == 1


def test_equal_maps_have_equal_hashes_whatever_integers_they_were_made_from():
    narrow, wide = LODMap.of_tokens(TREE, 0, 16), LODMap(TREE, 0, 16, np.zeros(4, dtype=np.int64))
    assert narrow == wide
    assert hash(narrow) == hash(wide)


def test_a_negative_level_is_refused():
    with pytest.raises(LegalityError, match="-1"):
        LODMap(TREE, 0, 16, np.array([-1, 0, 0, 0]))
