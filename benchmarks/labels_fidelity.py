"""Rows of the labels benchmark: each estimator's agreement with exact labels, and what it finds."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mctrace.collect.measuring.estimator_agreement import LabelPair, StratumAgreement, compare_estimators
from mctrace.collect.planning.action_sampling import screening_probabilities

SCREENED_SHARE = 0.25
TOP_SHARE = 0.1
FloatArray = npt.NDArray[np.float64]
MeasuredContext = dict[str, Any]
"""labels and processor seconds of one context by estimator"""


def rows_of(contexts: Sequence[MeasuredContext]) -> list[dict[str, Any]]:
    """One row per case and estimator; correlations within each context, averaged by numbers of actions."""
    cases = defaultdict(list)
    for context in contexts:
        cases[context["map"], context["N"], context["R"]].append(context)
    rows = []
    for (name, num_tokens, num_cursors), found in sorted(cases.items()):
        for estimator in found[0]["labels"]:
            cost = sum(c["seconds"][estimator] for c in found) / sum(c["seconds"]["exact"] for c in found)
            figures = fidelity(found, estimator)
            recall = figures["top_tenth_recall"]
            rows.append(
                {"map": name, "N": num_tokens, "R": num_cursors, "estimator": estimator,
                 "cost_over_exact": cost, **figures,
                 "top_tenth_per_exact_cost": None if recall is None else float(recall) / cost,
                 "num_documents": len(found)}
            )  # fmt: skip
    return rows


def fidelity(contexts: Sequence[MeasuredContext], estimator: str) -> dict[str, Any]:
    """Agreement of an estimator's labels with exact ones, within documents and (`pooled_`) over all of them.

    `spearman_range` holds the lowest and the highest of the documents'. `top_tenth_recall` of screening is
    the share of the exact top tenth that its sample holds in expectation; otherwise the share that is among
    the estimate's own top tenth.
    """
    found: list[tuple[StratumAgreement, float]] = []
    pairs: list[LabelPair] = []
    for context in contexts:
        exact_A, estimated_A = (np.array(context["labels"][name]) for name in ("exact", estimator))
        mine = [LabelPair("collapse", 1, *both) for both in zip(exact_A, estimated_A, strict=True)]
        pairs += mine
        (stratum,) = compare_estimators(mine).strata
        if stratum.spearman is not None and stratum.pearson is not None:
            recall = screening_recall if estimator == "screened" else top_recall
            found.append((stratum, recall(exact_A, estimated_A)))
    (pooled,) = compare_estimators(pairs).strata
    counts = [stratum.num_actions for stratum, _ in found]
    spearman = [stratum.spearman for stratum, _ in found]

    def mean(values: Sequence[float | None]) -> float | None:
        return float(np.average([v for v in values if v is not None], weights=counts)) if counts else None

    return {
        "spearman": mean(spearman),
        "spearman_range": [min(spearman), max(spearman)] if spearman else None,  # type: ignore[type-var]
        "pearson": mean([stratum.pearson for stratum, _ in found]),
        "pooled_spearman": pooled.spearman,
        "pooled_pearson": pooled.pearson,
        "sign_agreement": mean([stratum.sign_agreement for stratum, _ in found]),
        "top_tenth_recall": mean([recall for _, recall in found]),
        "num_actions": len(pairs),
    }


def top_recall(exact_A: FloatArray, estimated_A: FloatArray) -> float:
    """Share of the tenth with the largest |exact| that is among the tenth with the largest |estimate|."""
    top, found = (top_tenth(values_A) for values_A in (exact_A, estimated_A))
    return len(top & found) / len(top)


def screening_recall(exact_A: FloatArray, estimated_A: FloatArray) -> float:
    """Share of the tenth with the largest |exact| that a screened run measures, in expectation: the mean of
    their inclusion probabilities."""
    size = max(1, round(SCREENED_SHARE * len(exact_A)))
    inclusion_A = screening_probabilities(np.abs(estimated_A), size)
    return float(inclusion_A[sorted(top_tenth(exact_A))].mean())


def top_tenth(values_A: FloatArray) -> set[int]:
    """Places of the largest by size."""
    count = max(1, round(TOP_SHARE * len(values_A)))
    return set(np.argsort(-np.abs(values_A), kind="stable")[:count].tolist())
