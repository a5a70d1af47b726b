"""Additive statistics (ratios, correlations) and bootstrap intervals over documents.

A statistic is kept as sums, which give the value of one snapshot, of one document and of a whole split. An
undefined value (no pairs, no variance) is None, never 0 or NaN.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mctrace.errors import InputError

FloatArray = NDArray[np.float64]

CONSTANT = 1e-12
"""relative standard deviation below which values count as equal; float32 values differ by 6e-8 or more"""


class Statistic(Protocol):
    """One snapshot's contribution to a metric."""

    def value(self) -> float | None: ...

    def __add__(self, other: Self, /) -> Self: ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean or share: numerator / denominator; undefined for a denominator of 0."""

    numerator: float
    denominator: float

    def value(self) -> float | None:
        return self.numerator / self.denominator if self.denominator > 0 else None

    def __add__(self, other: Self) -> Self:
        return type(self)(self.numerator + other.numerator, self.denominator + other.denominator)


@dataclass(frozen=True, slots=True)
class Moments:
    """Pearson's correlation of pairs (x, y): count, means, sums of centred squares and products."""

    count: int
    mean_x: float
    mean_y: float
    square_x: float
    square_y: float
    product: float

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Self:
        if not len(x):
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        mean_x, mean_y = float(x.mean()), float(y.mean())
        x, y = x - mean_x, y - mean_y
        return cls(len(x), mean_x, mean_y, float(x @ x), float(y @ y), float(x @ y))

    def value(self) -> float | None:
        if self.count < 2 or self._constant(self.square_x, self.mean_x):
            return None
        if self._constant(self.square_y, self.mean_y):
            return None
        return self.product / math.sqrt(self.square_x) / math.sqrt(self.square_y)

    def _constant(self, square: float, mean: float) -> bool:
        return square <= self.count * (CONSTANT * mean) ** 2

    def __add__(self, other: Self) -> Self:
        """Chan, Golub and LeVeque's pairwise update, which avoids the cancellation of raw sums of squares."""
        count = self.count + other.count
        if not count:
            return self
        gap_x, gap_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between = self.count * other.count / count
        return type(self)(
            count,
            self.mean_x + gap_x * other.count / count,
            self.mean_y + gap_y * other.count / count,
            self.square_x + other.square_x + gap_x**2 * between,
            self.square_y + other.square_y + gap_y**2 * between,
            self.product + other.product + gap_x * gap_y * between,
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over documents with the central 95% of its bootstrap distribution."""

    mean: float
    low: float
    high: float
    num_documents: int


@dataclass(frozen=True, slots=True)
class Centre:
    """A robust centre of the documents' values with the central 95% of its bootstrap distribution."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RobustCentres:
    """Centres that a few extreme documents cannot move: the median, and the mean of the middle 80%."""

    median: Centre
    trimmed_mean: Centre


_TRIMMED = 0.1
"""share of the documents that the trimmed mean leaves out on either side"""


def bootstrap_interval(
    values_by_document: Mapping[str, float], seed: int, num_resamples: int = 1000
) -> Interval:
    """Mean and 95% percentile interval, resampling whole documents: snapshots of one are not independent.

    Independent of the order of the documents. Raises InputError when there is none.
    """
    values, drawn = _resampled(values_by_document, seed, num_resamples)
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def robust_centres(
    values_by_document: Mapping[str, float], seed: int, num_resamples: int = 1000
) -> RobustCentres:
    """Median and trimmed mean, each with its 95% percentile interval over resampled documents.

    The same draws as `bootstrap_interval`. Raises InputError when there is no document.
    """
    values, drawn = _resampled(values_by_document, seed, num_resamples)
    return RobustCentres(
        _centre(float(np.median(values)), np.median(drawn, axis=1)),
        _centre(float(_trimmed_mean(values[None])[0]), _trimmed_mean(drawn)),
    )


def _resampled(
    values_by_document: Mapping[str, float], seed: int, num_resamples: int
) -> tuple[FloatArray, FloatArray]:
    """The documents' values [D], and resampled ones [num_resamples, D]."""
    if not values_by_document:
        raise InputError("no document has a value for this metric: there is nothing to resample")
    values = np.array([values_by_document[document] for document in sorted(values_by_document)])
    places = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
    return values, values[places]


def _trimmed_mean(values_RD: FloatArray) -> FloatArray:
    num_left_out = int(_TRIMMED * values_RD.shape[1])
    ordered = np.sort(values_RD, axis=1)
    kept: FloatArray = ordered[:, num_left_out : values_RD.shape[1] - num_left_out].mean(axis=1)
    return kept


def _centre(value: float, resampled: FloatArray) -> Centre:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Centre(value, float(low), float(high))
