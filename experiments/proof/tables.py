"""Rows of the loop as the tables of the protocol: primary comparisons and curves over budgets."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.proof.choices import FAMILIES, Choices
from experiments.proof.policy_table import TRUNCATION
from experiments.proof.question_documents import SEEN
from experiments.proof.statistics import compare_all, resampled_means

Row = Mapping[str, Any]
_MEASURES = ("nll", "exact_match")


def primary(rows: Iterable[Row], choices: Choices, budget: int) -> list[dict[str, Any]]:
    """LensNet against truncation and the chosen retrieval, Holm-corrected over all; positive: better.

    Nats per token for `nll`, a share of questions for `exact_match` (null for ordinary text). `rows` are of
    primary documents at the primary budget.
    """
    measured = _by_policy(rows)
    pairs = [(f, other) for f in FAMILIES for other in (TRUNCATION, choices.retrieval[f])]
    asked = [(*pair, m) for pair in pairs for m in _MEASURES if m == "nll" or pair[0] != "ordinary"]
    compared = compare_all(
        [_better(measured[family, choices.lensnet], measured[family, other], m) for family, other, m in asked]
    )
    by_row = dict(zip(asked, compared, strict=True))
    return [
        {
            "against": other, "family": family, "budget": budget, "lensnet": choices.lensnet,
            **{
                measure: asdict(found) if (found := by_row.get((family, other, measure))) else None
                for measure in _MEASURES
            },
        }
        for family, other in pairs
    ]  # fmt: skip


def curves(rows: Iterable[Row], primary_budget: int) -> list[dict[str, Any]]:
    """A row per family, group of documents, window, budget and policy, with uncorrected 95% intervals.

    `gain` is how many nats per token it is better than truncation at the same budget, paired by document.
    Groups within a family (tasks, wordings, genres) at the primary budget alone.
    """
    kept = {row["key"]: row for row in rows}.values()
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in kept:
        wording = row["group"] if row["group"] == SEEN else "all"
        groups = {wording, row["group"]} if row["budget"] == primary_budget else {wording}
        for group in groups:
            tables[row["family"], group, row["window"], row["budget"]].append(row)
    found = []
    for (family, group, window, budget), members in sorted(tables.items()):
        by_policy = {policy: documents for (_, policy), documents in _by_policy(members).items()}
        for policy, documents in sorted(by_policy.items()):
            gain, exact = None, None
            if policy != TRUNCATION:
                gain = _interval(_better(documents, by_policy[TRUNCATION], "nll"))
            if family != "ordinary":
                exact = _interval(_values(documents, "exact_match"))
            found.append(
                {
                    "family": family, "group": group, "window": window, "budget": budget, "policy": policy,
                    "documents": len(documents), "nll": _interval(_values(documents, "nll")), "gain": gain,
                    "exact_match": exact,
                    "milliseconds": float(np.median([row["milliseconds"] for row in documents.values()])),
                    "positions": max(row["positions"] for row in documents.values()),
                }
            )  # fmt: skip
    return found


def _by_policy(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """(family, policy) -> document -> row."""
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["family"], row["policy"]][row["document"]] = row
    return found


def _values(documents: Mapping[str, Row], measure: str) -> dict[str, float]:
    return {name: float(row[measure]) for name, row in documents.items()}


def _better(lensnet: Mapping[str, Row], other: Mapping[str, Row], measure: str) -> dict[str, float]:
    """By how much the first is better, on documents that both have: a lower loss, or more exact matches."""
    sign = 1 if measure == "nll" else -1
    return {
        name: sign * (float(row[measure]) - float(lensnet[name][measure]))
        for name, row in other.items()
        if name in lensnet
    }


def _interval(values: Mapping[str, float]) -> Sequence[float]:
    low, high = np.quantile(resampled_means(values), [0.025, 0.975])
    return [float(np.mean(list(values.values()))), float(low), float(high)]
