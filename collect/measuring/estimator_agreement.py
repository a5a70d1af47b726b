"""Agreement of the windowed estimator with the exact one on the same actions.

Expands and collapses, and levels, differ in size and sign, so agreement is taken within (action, node_level)
and pooled by their numbers: a ranking that only separates levels scores nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_TOP_SHARE = 0.1
_FEWEST = 4
"""fewest labels of a stratum for rank statistics"""


@dataclass(frozen=True)
class LabelPair:
    """One action measured both ways: labels in nats per token."""

    action: str
    node_level: int
    exact: float
    windowed: float


@dataclass(frozen=True)
class EstimatorAgreement:
    """Agreement over `num_actions` pairs; a figure is None where no stratum has enough of them."""

    num_actions: int
    spearman: float | None
    """rank correlation"""
    sign_agreement: float | None
    """share of labels with the same sign"""
    top_k_recall: float | None
    """share of the tenth with the largest exact |label| that is among the windowed tenth"""
    mae: float | None
    """mean absolute error, nats per token"""


def compare_estimators(pairs: Iterable[LabelPair]) -> EstimatorAgreement:
    """EstimatorAgreement of the windowed labels, pooled within (action, node_level)."""
    strata: dict[tuple[str, int], list[LabelPair]] = defaultdict(list)
    for pair in pairs:
        strata[pair.action, pair.node_level].append(pair)
    groups = [np.array([(p.exact, p.windowed) for p in members]).T for members in strata.values()]
    return EstimatorAgreement(
        sum(group.shape[1] for group in groups),
        _pooled([group for group in groups if group.shape[1] >= _FEWEST], _spearman),
        _pooled(groups, lambda exact, windowed: float((np.sign(exact) == np.sign(windowed)).mean())),
        _pooled([group for group in groups if group.shape[1] >= _FEWEST], _top_k_recall),
        _pooled(groups, lambda exact, windowed: float(np.abs(exact - windowed).mean())),
    )


Values = npt.NDArray[np.float64]


def _pooled(groups: Sequence[Values], figure: Callable[[Values, Values], float]) -> float | None:
    found = [(figure(group[0], group[1]), group.shape[1]) for group in groups]
    found = [(value, count) for value, count in found if np.isfinite(value)]
    if not found:
        return None
    values, counts = zip(*found, strict=True)
    return float(np.average(values, weights=counts))


def _spearman(exact: Values, windowed: Values) -> float:
    # Here, not on top: measuring needs nothing of scipy where nothing is compared.
    from scipy.stats import spearmanr

    if np.ptp(exact) == 0 or np.ptp(windowed) == 0:
        return float("nan")
    return float(spearmanr(exact, windowed).statistic)


def _top_k_recall(exact: Values, windowed: Values) -> float:
    k = max(1, round(_TOP_SHARE * len(exact)))
    top = [set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (exact, windowed)]
    return len(top[0] & top[1]) / k
