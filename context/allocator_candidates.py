"""Candidates of the focus allocator: the legal actions of a working context and their scores.

Networks score entries and absent blocks, the allocator takes actions: an expand or an insert has its own
entry's score, a collapse or a drop the mean over its entries, as in the training's ranking loss. Vectorised:
a map of a million blocks costs about as much as sorting it.

Shapes: N scored nodes (the entries, and absent blocks), A actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action, ActionArrays, legal_action_arrays
from mctrace.context.lod_map import IntArray, LODMap
from mctrace.context.tree import ABSENT
from mctrace.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Legal actions with one signed score each: positive asks for more detail, negative for less.

    Expands and inserts are ordered newest first, collapses and drops oldest first, so a stable sort breaks
    ties by recency; of one block, a drop comes before the collapse, which frees less.
    """

    actions: ActionArrays
    score_A: FloatArray
    positions_A: IntArray
    """positions that each adds or frees"""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_expand_A(self) -> npt.NDArray[np.bool_]:
        return self.actions.is_expand_A

    def undoes(self, action: Action) -> npt.NDArray[np.bool_]:
        """Mask [A] of the candidates that are the opposite of `action` on the same node: to show less what it
        showed, or the reverse."""
        found = self.actions
        is_same_A = (found.level_A == action.node.level) & (found.index_A == action.node.index)
        is_opposite_A = ~found.is_expand_A if action.shows_more else found.is_expand_A
        undoes_A: npt.NDArray[np.bool_] = is_same_A & is_opposite_A
        return undoes_A

    def rescored(self, scores: Mapping[Action, float]) -> "Candidates":
        """The candidates that are keys of `scores`, with those scores."""
        named = [(i, scores[a]) for i in range(len(self)) if (a := self.actions.action(i)) in scores]
        places = np.array([i for i, _ in named], dtype=np.int64)
        scores_A = np.array([score for _, score in named], dtype=np.float64)
        return Candidates(self.actions.at(places), scores_A, self.positions_A[places])


def candidates_of(lod_map: LODMap, protected_tail: int, score_N: npt.ArrayLike | None = None) -> Candidates:
    """All legal actions of a map, scored from the scores [N] of `lod_map.nodes`; scored 0 without any.

    Raises InputError for scores that are not finite, or whose number differs from that of the nodes.
    """
    actions = legal_action_arrays(lod_map, protected_tail)
    end_A = (actions.index_A + 1) * lod_map.tree.block_size**actions.level_A
    frees_A = np.where(actions.is_expand_A, 0, actions.positions_A(lod_map.tree))
    order = np.lexsort((-frees_A, np.where(actions.is_expand_A, -end_A, end_A)))
    actions = actions.at(order)
    positions_A = actions.positions_A(lod_map.tree)
    if score_N is None:
        return Candidates(actions, np.zeros(len(actions)), positions_A)
    score_A = _aggregate(lod_map, actions, np.asarray(score_N, dtype=np.float64))
    return Candidates(actions, score_A, positions_A)


def _aggregate(lod_map: LODMap, actions: ActionArrays, score_N: FloatArray) -> FloatArray:
    node_of_block, num_nodes = _first_nodes(lod_map)
    if score_N.shape != (num_nodes,):
        raise InputError(
            f"a working context of {num_nodes} entries and absent blocks needs as many scores, "
            f"not {score_N.shape}"
        )
    if not np.isfinite(score_N).all():
        raise InputError(f"{(~np.isfinite(score_N)).sum()} of {num_nodes} scores are not finite")
    tree = lod_map.tree
    block_A = actions.index_A * tree.block_size ** (actions.level_A - 1) - lod_map.first_block
    first_A = node_of_block[block_A]
    last_A = first_A + actions.num_replaced_A(tree)
    bounds = np.stack([first_A, last_A], axis=1).ravel()
    if not len(bounds):
        return np.zeros(0)
    sum_A = np.add.reduceat(np.append(score_N, 0.0), bounds)[::2]
    return np.asarray(sum_A / (last_A - first_A), dtype=np.float64)


def _first_nodes(lod_map: LODMap) -> tuple[IntArray, int]:
    """Index of the first scored node of each block (or of the gist it is part of), and their number."""
    tree, levels = lod_map.tree, lod_map.levels.astype(np.int64)
    blocks = lod_map.first_block + np.arange(len(levels))
    per_node = np.where(levels == ABSENT, 1, tree.block_size ** np.maximum(levels % ABSENT - 1, 0))
    num_nodes = np.where(levels == 0, tree.block_size, blocks % per_node == 0)
    partial = (lod_map.cursor - lod_map.start) % tree.block_size
    if partial:
        num_nodes[-1] = partial
    end = np.cumsum(num_nodes)
    return end - num_nodes, int(end[-1])
