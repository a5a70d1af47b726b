"""Summary of a closed loop: one table of policies, with intervals paired by document.

A difference is taken within each document before documents are resampled, so that what makes one document
harder than another cancels. The share of hindsight's gain is a ratio of sums, resampled with its documents.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mctrace.collect.corpus.corpus_reader import is_recall
from mctrace.train.evaluation.statistics import FloatArray, Interval, bootstrap_interval

REFERENCE, CEILING = "recency", "hindsight"
_NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class PolicySummary:
    """One policy over some documents. Losses in nats per token; None where a figure is not defined."""

    nll: Interval
    """over the K tokens after each refocus"""
    nll_horizon: Interval
    """over the H tokens after each"""
    less_than_recency: Interval
    """recency's `nll` less this one's, paired: positive is better than recency"""
    less_than_recency_horizon: Interval
    less_than_recency_later: Interval | None
    """the same over the horizon's tokens after those K; None where there are none"""
    share_of_hindsight: Interval | None
    """gain over recency as a share of hindsight's; None without hindsight, or where it gains nothing"""
    edits: float
    """per refocus"""
    swaps: float
    """edits per refocus beyond those that the budget demands"""
    residency: float | None
    """share of the old blocks shown as tokens that a refocus leaves as tokens"""
    budget_use: float
    """positions after a refocus as a share of the budget"""
    seconds: float
    """median per refocus, of policy and allocator; without reading what follows"""
    less_than_others: Mapping[str, Interval]
    """for every other policy but recency: its `nll` less this one's, paired"""


def summarise(
    rows: Iterable[Mapping[str, Any]], budget: int, seed: int, *, block_size: int, horizon: int
) -> dict[str, dict[str, PolicySummary]]:
    """Group -> policy -> summary: each corpus, and "all", "all recall" and "all other" documents.

    A group with the same documents as a smaller one is left out. Only documents that every policy has run on
    count, so that all are compared on the same ones.
    """
    rows = list(rows)
    corpora = {corpus_of(row["source"]) for row in rows}
    recall = {corpus for corpus in corpora if is_recall(corpus)}
    groups = {corpus: {corpus} for corpus in sorted(corpora)}
    for name, members in (("all recall", recall), ("all other", corpora - recall), ("all", corpora)):
        if members and members not in groups.values():
            groups[name] = members
    found = {}
    for name, members in reversed(groups.items()):
        by_policy: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for row in rows:
            if corpus_of(row["source"]) in members:
                by_policy[row["policy"]][row["document_id"]] = row
        found[name] = _summarise_group(by_policy, budget, seed, block_size, horizon)
    return found


def corpus_of(source: str) -> str:
    """The corpus of a source: the part before its first slash."""
    return source.split("/")[0]


def share_of_gain(gain_D: FloatArray, ceiling_D: FloatArray, seed: int) -> Interval | None:
    """Σ gain / Σ ceiling over documents with its 95% percentile interval.

    None where the ceiling gains nothing; resamples in which it does not are left out.
    """
    if ceiling_D.sum() <= 0:
        return None
    drawn = np.random.default_rng(seed).integers(len(gain_D), size=(_NUM_RESAMPLES, len(gain_D)))
    above, below = gain_D[drawn].sum(axis=1), ceiling_D[drawn].sum(axis=1)
    low, high = np.quantile(above[below > 0] / below[below > 0], [0.025, 0.975])
    return Interval(float(gain_D.sum() / ceiling_D.sum()), float(low), float(high), len(gain_D))


def as_json(summaries: Mapping[str, Mapping[str, PolicySummary]]) -> dict[str, Any]:
    """The summaries as plain JSON."""
    return {
        group: {name: asdict(summary) for name, summary in policies.items()}
        for group, policies in summaries.items()
    }


def _summarise_group(
    by_policy: Mapping[str, Mapping[str, Mapping[str, Any]]],
    budget: int,
    seed: int,
    block_size: int,
    horizon: int,
) -> dict[str, PolicySummary]:
    shared = sorted(set.intersection(*(set(found) for found in by_policy.values())))
    if not shared:
        return {}
    steps = {name: [found[d]["refocuses"] for d in shared] for name, found in by_policy.items()}
    nll = {name: _per_document(runs, "nll") for name, runs in steps.items()}
    nll_horizon = {name: _per_document(runs, "nll_horizon") for name, runs in steps.items()}
    num_later = horizon - block_size
    summaries = {}
    for name, runs in steps.items():
        gain_D = nll[REFERENCE] - nll[name]
        gain_horizon_D = nll_horizon[REFERENCE] - nll_horizon[name]
        later_D = (horizon * gain_horizon_D - block_size * gain_D) / max(num_later, 1)
        ceiling_D = nll[REFERENCE] - nll[CEILING] if CEILING in nll else np.zeros(len(shared))
        every = [step for run in runs for step in run]
        kept = [step["kept"] for step in every if step["kept"] is not None]
        summaries[name] = PolicySummary(
            _interval(shared, nll[name], seed),
            _interval(shared, nll_horizon[name], seed),
            _interval(shared, gain_D, seed),
            _interval(shared, gain_horizon_D, seed),
            _interval(shared, later_D, seed) if num_later > 0 else None,
            share_of_gain(gain_D, ceiling_D, seed),
            float(np.mean([step["num_edits"] for step in every])),
            float(np.mean([step["num_edits"] - step["num_forced"] for step in every])),
            float(np.mean(kept)) if kept else None,
            float(np.mean([step["num_entries"] for step in every])) / budget,
            float(np.median([step["seconds"] for step in every])),
            {
                other: _interval(shared, nll[other] - nll[name], seed)
                for other in steps
                if other not in (name, REFERENCE)
            },
        )
    return summaries


def _per_document(runs: Sequence[Sequence[Mapping[str, float]]], name: str) -> FloatArray:
    return np.array([np.mean([step[name] for step in run]) for run in runs])


def _interval(documents: Sequence[str], values_D: FloatArray, seed: int) -> Interval:
    return bootstrap_interval(dict(zip(documents, values_D.tolist(), strict=True)), seed, _NUM_RESAMPLES)
