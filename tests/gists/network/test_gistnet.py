"""Building a document's tree: which nodes get a gist, from which children, and refusal of bad GistNets."""

from dataclasses import dataclass, field

import pytest
import torch

from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import GistNet, MeanGistNet, build_tree

PAIRS = TreeShape(block_size=2, max_level=2)


def column(*values: float) -> torch.Tensor:
    """Embeddings of width 2 whose second number is ten times the first."""
    return torch.tensor([[value, 10 * value] for value in values], dtype=torch.float32)


@dataclass
class LastChild:
    """A user's GistNet: a gist is its last child, shifted by the level. Records its calls."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    content_hash: str = "last-child"

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        pass

    def gists(self, children_MKd: torch.Tensor, level: int) -> torch.Tensor:
        self.asked.append((level, len(children_MKd)))
        return children_MKd[:, -1] + 100 * level


class Returning(LastChild):
    """A GistNet that returns invalid gists at level 2."""

    def __init__(self, make_wrong) -> None:
        super().__init__()
        self.make_wrong = make_wrong

    def gists(self, children_MKd: torch.Tensor, level: int) -> torch.Tensor:
        gists_Md = super().gists(children_MKd, level)
        return self.make_wrong(gists_Md) if level == 2 else gists_Md


def test_mean_gists_by_hand():
    levels = build_tree(MeanGistNet(), column(1, 3, 5, 7, 10, 20, 30, 40), PAIRS)
    assert [level.tolist() for level in levels[1:]] == [
        column(2, 6, 15, 35).tolist(),
        column(4, 25).tolist(),
    ]


@pytest.mark.parametrize(
    ("num_tokens", "num_nodes"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 0)), (7, (3, 1)), (8, (4, 2))]
)
def test_a_node_that_is_not_complete_has_no_gist(num_tokens, num_nodes):
    tokens = column(*range(num_tokens))
    levels = build_tree(MeanGistNet(), tokens, PAIRS)
    assert [len(level) for level in levels] == [num_tokens, *num_nodes]
    assert levels[0] is tokens


def test_tokens_after_a_complete_node_do_not_change_its_gist():
    short = build_tree(MeanGistNet(), column(1, 3, 5, 7), PAIRS)
    longer = build_tree(MeanGistNet(), column(1, 3, 5, 7, 900, 901), PAIRS)
    assert torch.equal(longer[1][:2], short[1])
    assert torch.equal(longer[2], short[2])


def test_level_2_gists_are_made_from_level_1_gists():
    levels = build_tree(LastChild(), column(1, 2, 3, 4), PAIRS)
    assert levels[1].tolist() == [[102, 120], [104, 140]]
    assert levels[2].tolist() == [[304, 340]]


def test_a_gistnet_is_called_once_per_level_for_all_nodes():
    gistnet = LastChild()
    assert isinstance(gistnet, GistNet)
    build_tree(gistnet, column(*range(9)), PAIRS)
    assert gistnet.asked == [(1, 4), (2, 2)]


def test_a_gistnet_is_not_called_for_a_level_without_complete_nodes():
    gistnet = LastChild()
    levels = build_tree(gistnet, column(1, 2, 3), PAIRS)
    assert gistnet.asked == [(1, 1)]
    assert levels[2].shape == (0, 2)


def test_gists_have_the_dtype_of_the_tokens_and_their_mean_is_taken_in_float32():
    # In bfloat16 256 + 1 is 256, so a running sum in it would lose every one of the small values.
    tokens = torch.tensor([256.0] + [1.0] * 31).to(torch.bfloat16)[:, None]
    levels = build_tree(MeanGistNet(), tokens, TreeShape(32, 1))
    assert levels[1].dtype == torch.bfloat16
    assert levels[1].item() == torch.tensor((256 + 31) / 32).to(torch.bfloat16).item()


@pytest.mark.parametrize(
    "make_wrong",
    [
        lambda gists_Md: gists_Md[:-1],
        lambda gists_Md: gists_Md[:, :1],
        lambda gists_Md: gists_Md[:, None],
        lambda gists_Md: gists_Md * float("nan"),
        lambda gists_Md: gists_Md / 0,
    ],
    ids=["too few", "too narrow", "another rank", "nan", "infinite"],
)
def test_gists_that_cannot_be_used_are_refused_by_level(make_wrong):
    with pytest.raises(ModelError, match=r"at level 2, expected finite \(2, 2\)"):
        build_tree(Returning(make_wrong), column(*range(1, 9)), PAIRS)


def test_trees_are_built_without_gradients():
    tokens = column(1, 2, 3, 4).requires_grad_()
    assert not any(level.requires_grad for level in build_tree(MeanGistNet(), tokens, PAIRS)[1:])
