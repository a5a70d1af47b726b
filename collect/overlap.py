"""Which actions are likely to matter: spans that share rare words with the text their effects are read on.

Most gists of a context have nothing to say about the next tokens, and a sample that is spread evenly finds
few of those that have. Words find more of them, at no cost: a plan needs no weights of any model.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory

FloatArray = npt.NDArray[np.float64]

_BLOCKS_READ = 5
"""complete blocks before the first cursor that count as being read, as many as a LensNet sees of level 1"""
_POWER = 4


def overlap_weights(
    trajectory: Trajectory, actions: Sequence[Action], tokens_T: npt.NDArray[np.integer]
) -> FloatArray:
    """How much each action's span shares with what is read from shortly before the first cursor on [A].

    The sum over distinct shared tokens of log(blocks / blocks that hold the token), to a power that leaves
    little to spans which share what all of a document's do. It looks ahead to the last horizon's end: a
    sample may, as long as its probabilities are kept, with which a weighted query undoes what it prefers.
    """
    tree, start = trajectory.head.tree, trajectory.head.start
    block, end = tree.block_size, trajectory.end
    blocks = [np.unique(tokens_T[at : at + block]) for at in range(start, end, block)]
    token_U, num_blocks_U = np.unique(np.concatenate(blocks), return_counts=True)
    rarity_U = np.log(len(blocks) / num_blocks_U)
    read_from = max(start, trajectory.first_cursor - _BLOCKS_READ * block)

    def weight(span: tuple[int, int]) -> float:
        first, last = span
        # A span that is itself being read shares with the rest of it alone.
        elsewhere = (tokens_T[read_from : max(first, read_from)], tokens_T[max(last, read_from) : end])
        shared = np.intersect1d(tokens_T[first:last], np.concatenate(elsewhere))
        return float(rarity_U[np.searchsorted(token_U, shared)].sum() ** _POWER)

    return np.array([weight(tree.span(action.node)) for action in actions])
