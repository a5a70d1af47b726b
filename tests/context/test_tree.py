"""Tree arithmetic: spans, children, complete nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.tree import Node, TreeShape
from mctrace.errors import ConfigError
from tests.context.strategies import light, trees


def test_the_default_tree_has_gists_of_32_and_1024_tokens():
    tree = TreeShape()
    assert [tree.span_width(level) for level in (0, 1, 2)] == [1, 32, 1024]
    assert tree.span(Node(1, 3)) == (96, 128)
    assert tree.span(Node(2, 1)) == (1024, 2048)
    assert [tree.blocks_per_node(level) for level in (1, 2)] == [1, 32]


@light
@given(trees(), st.integers(1, 3), st.integers(0, 50))
def test_the_children_of_a_node_tile_its_span(tree, level, index):
    node = Node(level, index)
    children = tree.children(node)
    assert len(children) == tree.block_size
    assert {child.level for child in children} == {level - 1}
    edges = [edge for child in children for edge in tree.span(child)]
    assert (edges[0], edges[-1]) == tree.span(node)
    assert edges[1:-1:2] == edges[2:-1:2]


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, (0, 0)), (15, (3, 0)), (16, (4, 1)), (35, (8, 2))])
def test_a_node_is_complete_only_when_all_its_tokens_are_there(num_tokens, expected):
    tree = TreeShape(4, 2)
    assert tuple(tree.num_complete_nodes(level, num_tokens) for level in (1, 2)) == expected


@pytest.mark.parametrize(
    ("sizes", "key"), [((1, 2), "tree.block_size"), ((4, 0), "tree.max_level"), ((4, 5), "tree.max_level")]
)
def test_a_tree_out_of_range_is_refused_by_its_key(sizes, key):
    with pytest.raises(ConfigError, match=key):
        TreeShape(*sizes)
