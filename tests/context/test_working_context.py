"""Embeddings of a working context, gathered from a document's tree."""

import numpy as np
import pytest
import torch
from hypothesis import given

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.context.working_context import gather_embeddings
from mctrace.errors import LegalityError
from tests.context.strategies import legal_maps, light, shown_nodes

TREE = TreeShape(block_size=4, max_level=2)


def numbered_tree(tree: TreeShape, num_tokens: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Each node's embedding is its (level, index)."""
    counts = [num_tokens, *(tree.num_complete_nodes(level, num_tokens) for level in (1, 2, 3))]
    return [
        torch.stack([torch.full((n,), level), torch.arange(n)], dim=1).to(dtype)
        for level, n in enumerate(counts[: tree.max_level + 1])
    ]


@light
@given(legal_maps())
def test_every_entry_gets_the_embedding_of_its_own_node(lod_map):
    gathered_ND = gather_embeddings(lod_map.entries, numbered_tree(lod_map.tree, lod_map.cursor))
    assert gathered_ND.tolist() == [[node.level, node.index] for node in shown_nodes(lod_map)]


def test_the_embeddings_keep_the_models_dtype():
    entries = LODMap(TREE, 0, 16, np.array([1, 0, 0, 1], dtype=np.uint8)).entries
    assert gather_embeddings(entries, numbered_tree(TREE, 16, torch.bfloat16)).dtype == torch.bfloat16


def test_an_entry_coarser_than_the_tree_is_refused():
    entries = LODMap(TREE, 0, 16, np.full(4, 2, dtype=np.uint8)).entries
    with pytest.raises(LegalityError, match="an entry is at level 2, the tree ends at 1"):
        gather_embeddings(entries, numbered_tree(TREE, 16)[:2])


@pytest.mark.parametrize(
    ("level", "why"),
    [(1, r"node \(level 1, index 3\) .* 2 complete nodes"), (0, r"node \(level 0, index 15\) .* 11")],
)
def test_an_entry_beyond_the_document_is_refused_by_name(level, why):
    entries = LODMap(TREE, 0, 16, np.full(4, level, dtype=np.uint8)).entries
    with pytest.raises(LegalityError, match=why):
        gather_embeddings(entries, numbered_tree(TREE, 11))
