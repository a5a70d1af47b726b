"""Ceilings of many documents as one answer: each rung's losses against deletion, with intervals and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mctrace.gists.evaluation.ceiling import CeilingResult, Rung
from mctrace.train.evaluation.statistics import bootstrap_interval


def summarise_ceilings(found: Mapping[str, Sequence[CeilingResult]], seed: int) -> list[dict[str, Any]]:
    """One row per rung over the documents of `found`, in the order of the rungs; nats per token.

    `start` and `reached` are differences to deletion paired by document: negative is better.
    `vectors_per_token` is what a gist costs, `seconds` what a window took.
    """
    by_rung: dict[Rung, dict[str, CeilingResult]] = {}
    for document, results in found.items():
        for result in results:
            by_rung.setdefault(result.rung, {})[document] = result
    return [_row(rung, results, seed) for rung, results in by_rung.items()]


def _row(rung: Rung, results: Mapping[str, CeilingResult], seed: int) -> dict[str, Any]:
    values = {
        "deleted": {name: r.deleted for name, r in results.items()},
        "start": {name: r.start - r.deleted for name, r in results.items()},
        "reached": {name: r.reached - r.deleted for name, r in results.items()},
        "copies_deleted": {name: r.copies_deleted for name, r in results.items()},
        "copies_start": {name: r.copies_start - r.copies_deleted for name, r in results.items()},
        "copies_reached": {name: r.copies_reached - r.copies_deleted for name, r in results.items()},
        "objective_start": {name: r.objective_start for name, r in results.items()},
        "objective_reached": {name: r.objective_reached for name, r in results.items()},
    }
    return {
        **asdict(rung),
        "vectors_per_token": rung.num_vectors / rung.block_size,
        **{key: asdict(bootstrap_interval(by_document, seed)) for key, by_document in values.items()},
        "seconds": sum(result.seconds for result in results.values()) / len(results),
    }
