"""Sampling weights by word overlap: spans that share rare words with the text being read, at no model cost.

Most gists of a context do not affect the next tokens, and an even sample finds few of those that do. Words
find more of them, and a plan needs no model weights. The same sum (`context/shared_tokens.py`) is a policy of
closed loops and a feature of a LensNet.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action
from mctrace.context.shared_tokens import FloatArray, overlaps
from mctrace.context.trajectory import Trajectory

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
