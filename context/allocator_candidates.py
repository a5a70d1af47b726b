"""Candidates of the focus allocator: the legal actions of a working context and their scores.

Networks score entries, the allocator takes actions: an expand has its entry's score, a collapse the mean over
its K entries, as in the training's ranking loss. Vectorised: a map of a million blocks costs about as much as
sorting it.

Shapes: N entries, A actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action, ActionArrays, legal_action_arrays
from mctrace.context.lod_map import IntArray, LODMap
from mctrace.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Legal actions with one signed score each: positive asks for more detail, negative for less.

    Expands are ordered newest first, collapses oldest first, so a stable sort breaks ties by recency.
    """

    actions: ActionArrays
    score_A: FloatArray

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_expand_A(self) -> npt.NDArray[np.bool_]:
        return self.actions.is_expand_A

    def undoes(self, action: Action) -> npt.NDArray[np.bool_]:
        """Mask [A] of the candidates that are the opposite of `action` on the same node."""
        found = self.actions
        is_same_A = (found.level_A == action.node.level) & (found.index_A == action.node.index)
        is_opposite_A = ~found.is_expand_A if action.kind == "expand" else found.is_expand_A
        undoes_A: npt.NDArray[np.bool_] = is_same_A & is_opposite_A
        return undoes_A

    def rescored(self, scores: Mapping[Action, float]) -> "Candidates":
        """The candidates that are keys of `scores`, with those scores."""
        named = [(i, scores[a]) for i in range(len(self)) if (a := self.actions.action(i)) in scores]
        places = np.array([i for i, _ in named], dtype=np.int64)
        return Candidates(
            _at(self.actions, places), np.array([score for _, score in named], dtype=np.float64)
        )


def candidates_of(lod_map: LODMap, protected_tail: int, score_N: npt.ArrayLike | None = None) -> Candidates:
    """All legal actions of a map, scored from entry scores [N] in score units; scored 0 without any.

    Raises InputError for scores that are not finite, or whose number differs from that of the entries.
    """
    actions = legal_action_arrays(lod_map, protected_tail)
    end_A = (actions.index_A + 1) * lod_map.tree.block_size**actions.level_A
    order = np.argsort(np.where(actions.is_expand_A, -end_A, end_A), kind="stable")
    actions = _at(actions, order)
    if score_N is None:
        return Candidates(actions, np.zeros(len(actions)))
    return Candidates(actions, _aggregate(lod_map, actions, np.asarray(score_N, dtype=np.float64)))


def _aggregate(lod_map: LODMap, actions: ActionArrays, score_N: FloatArray) -> FloatArray:
    entry_of_block, num_entries = _first_entries(lod_map)
    if score_N.shape != (num_entries,):
        raise InputError(
            f"a working context of {num_entries} entries needs as many scores, not {score_N.shape}"
        )
    if not np.isfinite(score_N).all():
        raise InputError(f"{(~np.isfinite(score_N)).sum()} of {num_entries} scores are not finite")
    tree = lod_map.tree
    block_A = actions.index_A * tree.block_size ** (actions.level_A - 1) - lod_map.first_block
    first_A = entry_of_block[block_A]
    last_A = first_A + np.where(actions.is_expand_A, 1, tree.block_size)
    bounds = np.stack([first_A, last_A], axis=1).ravel()
    if not len(bounds):
        return np.zeros(0)
    sum_A = np.add.reduceat(np.append(score_N, 0.0), bounds)[::2]
    return np.asarray(sum_A / (last_A - first_A), dtype=np.float64)


def _first_entries(lod_map: LODMap) -> tuple[IntArray, int]:
    """Index of the first entry of each block (or of the gist it is part of), and the number of entries."""
    tree, levels = lod_map.tree, lod_map.levels.astype(np.int64)
    blocks = lod_map.first_block + np.arange(len(levels))
    per_node = tree.block_size ** np.maximum(levels - 1, 0)
    num_entries = np.where(levels == 0, tree.block_size, blocks % per_node == 0)
    partial = (lod_map.cursor - lod_map.start) % tree.block_size
    if partial:
        num_entries[-1] = partial
    end = np.cumsum(num_entries)
    return end - num_entries, int(end[-1])


def _at(actions: ActionArrays, places: npt.NDArray[np.int64]) -> ActionArrays:
    return ActionArrays(actions.is_expand_A[places], actions.level_A[places], actions.index_A[places])
