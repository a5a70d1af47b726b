"""Preference metrics: agreement of scores with the losses of pairs of working contexts.

A move leads from one variant to another of its group. Its score is the mean, over the entries that differ, of
s where the other variant shows more detail and −s where it shows less, with s the scores of the first. It
should decrease with the move's change of loss: `preference_corr` is expected to be negative.

Shapes: B contexts, N entries (padded), P moves.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mctrace.datasets.batches.padded_batch import PairBatch
from mctrace.train.evaluation.statistics import FloatArray, Moments, Ratio


def move_scores(scores_BN: Tensor, pairs: PairBatch) -> FloatArray:
    """Score of each move [P], positive in its favour; 0 between equal contexts."""
    agreed_PN = scores_BN.float()[pairs.row] * pairs.direction
    differing_P = pairs.direction.abs().sum(dim=1).clamp(min=1)
    found: FloatArray = (agreed_PN.sum(dim=1) / differing_P).detach().double().cpu().numpy()
    return found


def group_moments(scores_BN: Tensor, pairs: PairBatch) -> dict[str, Moments]:
    """Group -> moments of its moves' scores and changes of loss, whose correlation is `preference_corr`."""
    opinion_P = move_scores(scores_BN, pairs)
    change_P: FloatArray = pairs.change.detach().double().cpu().numpy()
    names = np.array(pairs.groups)
    return {
        str(group): Moments.of(opinion_P[names == group], change_P[names == group])
        for group in dict.fromkeys(pairs.groups)
    }


def group_agreement(scores_BN: Tensor, pairs: PairBatch) -> dict[str, Ratio]:
    """Group -> share of its loss-lowering moves that have a positive score.

    Moves that raise the loss are left out: a token's score can only ask for a collapse or not.
    """
    improves_P: NDArray[np.bool_] = (pairs.change < 0).cpu().numpy()
    favoured_P = (move_scores(scores_BN, pairs) > 0) & improves_P
    names = np.array(pairs.groups)
    return {
        str(group): Ratio(float(favoured_P[names == group].sum()), float(improves_P[names == group].sum()))
        for group in dict.fromkeys(pairs.groups)
    }


def correlations_of_groups(scores_BN: Tensor, pairs: PairBatch) -> list[float]:
    """The correlation of each group for which it is defined."""
    values = (moments.value() for moments in group_moments(scores_BN, pairs).values())
    return [value for value in values if value is not None]
