"""How well scores foretell which of two working contexts is the better one.

A move leads from one variant to another of its group. Scores of the first say what they think of it: the mean
over the entries that differ of s where the other shows more detail, −s where it shows less. That should fall
as the move's change of loss rises, so `preference_corr` is negative when all is well.

Shapes: B contexts, N entries (padded), P moves.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mctrace.datasets.batches.pair_batch import PairBatch
from mctrace.train.evaluation.statistics import FloatArray, Moments, Ratio


def opinions(scores_BN: Tensor, pairs: PairBatch) -> FloatArray:
    """What the scores say of each move [P], positive for it; 0 for one between contexts that are alike."""
    agreed_PN = scores_BN.float()[pairs.row] * pairs.direction
    differing_P = pairs.direction.abs().sum(dim=1).clamp(min=1)
    found: FloatArray = (agreed_PN.sum(dim=1) / differing_P).detach().double().cpu().numpy()
    return found


def group_moments(scores_BN: Tensor, pairs: PairBatch) -> dict[str, Moments]:
    """Group -> the correlation over its moves of opinion and change of loss, as parts that can be added."""
    opinion_P = opinions(scores_BN, pairs)
    change_P: FloatArray = pairs.change.detach().double().cpu().numpy()
    names = np.array(pairs.groups)
    return {
        str(group): Moments.of(opinion_P[names == group], change_P[names == group])
        for group in dict.fromkeys(pairs.groups)
    }


def group_agreement(scores_BN: Tensor, pairs: PairBatch) -> dict[str, Ratio]:
    """Group -> of its moves that lower the loss, the share of which the scores are in favour.

    Moves that raise it say little: a token's score can only ever ask for a collapse, or not ask.
    """
    improves_P: NDArray[np.bool_] = (pairs.change < 0).cpu().numpy()
    favoured_P = (opinions(scores_BN, pairs) > 0) & improves_P
    names = np.array(pairs.groups)
    return {
        str(group): Ratio(float(favoured_P[names == group].sum()), float(improves_P[names == group].sum()))
        for group in dict.fromkeys(pairs.groups)
    }


def correlations_of_groups(scores_BN: Tensor, pairs: PairBatch) -> list[float]:
    """The correlation of each group where it is defined."""
    values = (moments.value() for moments in group_moments(scores_BN, pairs).values())
    return [value for value in values if value is not None]
