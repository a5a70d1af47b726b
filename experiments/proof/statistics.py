"""The protocol's statistics: paired bootstrap over documents, Holm over the primary comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.errors import InputError

NUM_DRAWS = 10_000
_LEVEL = 0.05

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Mean of a paired difference over documents, positive where LensNet is better, with its interval."""

    mean: float
    low: float
    high: float
    p: float
    """two-sided; Holm-adjusted where the comparison is one of several"""
    num_documents: int


def resampled_means(values_by_document: Mapping[str, float], seed: int = 0) -> FloatArray:
    """Means of NUM_DRAWS samples of documents with replacement; the order of the documents does not matter.

    Raises InputError when there is no document.
    """
    if not values_by_document:
        raise InputError("no document is there for a comparison: run the loop first")
    values_D = np.array([values_by_document[name] for name in sorted(values_by_document)])
    drawn = np.random.default_rng(seed).integers(len(values_D), size=(NUM_DRAWS, len(values_D)))
    means: FloatArray = values_D[drawn].mean(axis=1)
    return means


def two_sided(means: FloatArray) -> float:
    """Twice the smaller share of resamples on either side of 0; never 0, since draws are finite."""
    beyond = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return min(1.0, 2 * max(beyond, 1 / (len(means) + 1)))


def compare_all(differences: Sequence[Mapping[str, float]], seed: int = 0) -> list[Comparison]:
    """Comparisons with Holm's correction over all of them (Holm 1979), in the order given.

    The comparison with the k-th smallest p of m gets p · (m − k + 1), no smaller than those before it, and an
    interval of the level 1 − 0.05 / (m − k + 1): it excludes 0 where the uncorrected test at that level does.
    """
    means = [resampled_means(values, seed) for values in differences]
    raw = [two_sided(mean) for mean in means]
    found: dict[int, Comparison] = {}
    adjusted = 0.0
    for rank, i in enumerate(np.argsort(raw, kind="stable").tolist()):
        factor = len(raw) - rank
        adjusted = max(adjusted, min(1.0, raw[i] * factor))
        tail = _LEVEL / factor / 2
        low, high = np.quantile(means[i], [tail, 1 - tail])
        values = [differences[i][name] for name in sorted(differences[i])]
        found[i] = Comparison(float(np.mean(values)), float(low), float(high), adjusted, len(values))
    return [found[i] for i in range(len(raw))]
