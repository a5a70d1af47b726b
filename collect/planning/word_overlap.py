"""Sampling weights by word overlap: spans that share rare words with the text being read, at no model cost.

Most gists of a context do not affect the next tokens, and an even sample finds few of those that do. Words
find more of them, and a plan needs no model weights. The same sum is a
policy of closed loops: retrieval by words, nothing learned.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory

FloatArray = npt.NDArray[np.float64]

_BLOCKS_READ = 5
"""complete blocks before a cursor that count as being read, as many as a LensNet sees of level 1"""
_POWER = 4


def overlap_weights(
    trajectory: Trajectory, actions: Sequence[Action], tokens_T: npt.NDArray[np.integer]
) -> FloatArray:
    """Overlap of each action's span with the text from shortly before the first cursor on [A].

    The overlap with tokens up to the last horizon's end, to a power that leaves little to spans which share
    what all of a document's do. It looks ahead: a sample may, as long as its probabilities are kept, with
    which a weighted query undoes what it prefers.
    """
    tree = trajectory.head.tree
    text = range(trajectory.head.start, trajectory.end)
    read = range(trajectory.first_cursor - _BLOCKS_READ * tree.block_size, trajectory.end)
    spans = [tree.span(action.node) for action in actions]
    return overlaps(tokens_T, text, read, spans, tree.block_size) ** _POWER


def overlaps(
    tokens_T: npt.NDArray[np.integer],
    text: range,
    read: range,
    spans: Sequence[tuple[int, int]],
    block_size: int,
) -> FloatArray:
    """Per span the sum of log(blocks / blocks that hold the token) over distinct tokens that it shares.

    With `read`, as far as that lies in the `text` whose blocks are counted; both end at the same token. A
    span that is itself being read shares with the rest of it alone.
    """
    text_T = tokens_T[text.start : text.stop]
    blocks = [np.unique(text_T[at : at + block_size]) for at in range(0, len(text), block_size)]
    token_U, num_blocks_U = np.unique(np.concatenate(blocks), return_counts=True)
    rarity_U = np.log(len(blocks) / num_blocks_U)
    read_from = max(text.start, read.start)

    def overlap(span: tuple[int, int]) -> float:
        first, last = span
        elsewhere = (tokens_T[read_from : max(first, read_from)], tokens_T[max(last, read_from) : read.stop])
        shared = np.intersect1d(tokens_T[first:last], np.concatenate(elsewhere))
        return float(rarity_U[np.searchsorted(token_U, shared)].sum())

    return np.array([overlap(span) for span in spans])
