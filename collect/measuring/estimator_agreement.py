"""Agreement of a cheaper estimator with the exact one on the same actions.

Expands and collapses, and levels, differ in size and sign, so agreement is taken within (action, node_level)
and pooled by their numbers: a ranking that only separates levels scores nothing.
"""

from array import array
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
    estimated: float


class LabelPairs:
    """Many pairs at 16 bytes each: a run of 10⁸ labels audits millions of them, which its driver holds."""

    def __init__(self, pairs: Iterable[LabelPair] = ()) -> None:
        self.strata: dict[tuple[str, int], tuple[array[float], array[float]]] = {}
        """exact and estimated labels by action and level, in the order in which these came"""
        self.add(pairs)

    def add(self, pairs: Iterable[LabelPair]) -> None:
        for pair in pairs:
            exact, estimated = self.strata.setdefault(
                (pair.action, pair.node_level), (array("d"), array("d"))
            )
            exact.append(pair.exact)
            estimated.append(pair.estimated)

    def __len__(self) -> int:
        return sum(len(exact) for exact, _ in self.strata.values())


@dataclass(frozen=True)
class StratumAgreement:
    """Agreement within one action and level; a figure is None where labels are too few or all alike."""

    action: str
    node_level: int
    num_actions: int
    spearman: float | None
    pearson: float | None
    sign_agreement: float
    top_k_recall: float | None
    residual_variance: float
    """mean square of exact - estimated, nats squared: what a trainer takes for the estimate's noise"""


@dataclass(frozen=True)
class EstimatorAgreement:
    """Agreement over `num_actions` pairs; a figure is None where no stratum has enough of them."""

    num_actions: int
    spearman: float | None
    """rank correlation"""
    sign_agreement: float | None
    """share of labels with the same sign"""
    top_k_recall: float | None
    """share of the tenth with the largest exact |label| that is among the estimated tenth"""
    mae: float | None
    """mean absolute error, nats per token"""
    strata: tuple[StratumAgreement, ...] = ()
    """by action and level; not known of an audit"""


def compare_estimators(pairs: LabelPairs | Iterable[LabelPair]) -> EstimatorAgreement:
    """EstimatorAgreement of the estimated labels, pooled within (action, node_level)."""
    strata = (pairs if isinstance(pairs, LabelPairs) else LabelPairs(pairs)).strata
    groups = [np.stack([np.array(labels) for labels in members]) for members in strata.values()]
    return EstimatorAgreement(
        sum(group.shape[1] for group in groups),
        _pooled([group for group in groups if group.shape[1] >= _FEWEST], _spearman),
        _pooled(groups, lambda exact, estimated: float((np.sign(exact) == np.sign(estimated)).mean())),
        _pooled([group for group in groups if group.shape[1] >= _FEWEST], _top_k_recall),
        _pooled(groups, lambda exact, estimated: float(np.abs(exact - estimated).mean())),
        tuple(_stratum(*key, group) for key, group in sorted(zip(strata, groups, strict=True), key=_key)),
    )


Values = npt.NDArray[np.float64]


def _key(member: tuple[tuple[str, int], Values]) -> tuple[str, int]:
    return member[0]


def _stratum(action: str, node_level: int, group: Values) -> StratumAgreement:
    exact, estimated = group
    varies = group.shape[1] >= _FEWEST and np.ptp(exact) > 0 and np.ptp(estimated) > 0
    pearson = float(np.corrcoef(exact, estimated)[0, 1]) if varies else None
    return StratumAgreement(
        action,
        node_level,
        group.shape[1],
        _spearman(exact, estimated) if varies else None,
        pearson,
        float((np.sign(exact) == np.sign(estimated)).mean()),
        _top_k_recall(exact, estimated) if varies else None,
        float(np.square(exact - estimated).mean()),
    )


def _pooled(groups: Sequence[Values], figure: Callable[[Values, Values], float]) -> float | None:
    found = [(figure(group[0], group[1]), group.shape[1]) for group in groups]
    found = [(value, count) for value, count in found if np.isfinite(value)]
    if not found:
        return None
    values, counts = zip(*found, strict=True)
    return float(np.average(values, weights=counts))


def _spearman(exact: Values, estimated: Values) -> float:
    # Here, not on top: measuring needs nothing of scipy where nothing is compared.
    from scipy.stats import spearmanr

    if np.ptp(exact) == 0 or np.ptp(estimated) == 0:
        return float("nan")
    return float(spearmanr(exact, estimated).statistic)


def _top_k_recall(exact: Values, estimated: Values) -> float:
    k = max(1, round(_TOP_SHARE * len(exact)))
    top = [set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (exact, estimated)]
    return len(top[0] & top[1]) / k
