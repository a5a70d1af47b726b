"""Workers must agree on their probes before any of them measures for a run, and a run with earlier ones.

Values agree where they differ by no more than `TOLERANCE` of the dtype and twice the noise of the least noisy
worker: different devices add numbers in different orders, and half precision rounds what they add. The
tolerances were found on SmolLM2-135M: on such a probe bfloat16 and float16 differ from float32 by 0.1 and
0.004 nats per token, two orders of addition in float32 by 1e-5.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mctrace.collect.measuring.worker_probe import PROBE_VERSION, Probe, largest_difference, spread
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.errors import CollectError

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.15}
"""nats per token by dtype; gists have a unit of like size"""


@dataclass(frozen=True)
class NamedProbe:
    """Probe with the name of its worker."""

    worker: str
    probe: Probe

    def __str__(self) -> str:
        return f"{self.worker} on {self.probe.where}" if self.worker else self.probe.where


@dataclass(frozen=True)
class WorkerAgreement:
    """Agreement of a run's workers: the median of their probes, and the largest difference between them."""

    probe: Probe
    tolerance: float
    """by which another probe may differ, nats per token"""
    largest_difference: float
    workers: tuple[str, ...]

    def check(self, joining: NamedProbe) -> None:
        """Raises CollectError when a worker that joins later finds something else."""
        _refuse_infinite(joining)
        off = largest_difference(joining.probe.values, self.probe.values)
        if off > self.tolerance:
            raise CollectError(
                f"{joining} joined the run and differs from its other workers by {off:.3g} nats per token on "
                f"the same probe, where {self.tolerance:.2g} is noise: {_REMEDY}"
            )

    def row(self, block_size: int) -> dict[str, object]:
        """As the run's row keeps it."""
        return {
            "version": PROBE_VERSION,
            "nll": self.probe.nll,
            "delta_nll": _nullable(self.probe.delta_nll),
            "gists": _nullable(self.probe.gists),
            "gist_block_size": block_size,
            "no_op": None if math.isnan(self.probe.no_op) else self.probe.no_op,
            "largest_difference": self.largest_difference,
            "workers": list(self.workers),
        }


_REMEDY = (
    "its weights, dtype or device are not what they should be; leave it out, or copy the model there again"
)


def agree_on_probe(found: Sequence[NamedProbe], dtype: str) -> WorkerAgreement:
    """Median of the workers' probes. Raises CollectError, naming who differs by how much, when they
    disagree."""
    for one in found:
        _refuse_infinite(one)
    noise = min((one.probe.no_op for one in found if not math.isnan(one.probe.no_op)), default=0.0)
    tolerance = TOLERANCE[dtype] + 2 * noise
    middle = _median([one.probe for one in found])
    largest = max(map(spread, zip(*(one.probe.values for one in found), strict=True)))
    if largest > tolerance:
        raise CollectError(_disagreement(found, middle, largest, tolerance))
    return WorkerAgreement(middle, tolerance, largest, tuple(map(str, found)))


def check_earlier_runs(store: Store, provenance: Provenance, agreed: WorkerAgreement) -> None:
    """Raises CollectError when an earlier run of this store found something else with the same model hash."""
    for row in _earlier(store, provenance):
        earlier = row["probe"]
        off = abs(earlier["nll"] - agreed.probe.nll)
        off = max(off, largest_difference(_numbers(earlier["delta_nll"]), agreed.probe.delta_nll))
        is_same_gist = row["gist_hash"] == provenance.gist_hash
        if is_same_gist and earlier["gist_block_size"] == provenance.block_size:
            off = max(off, largest_difference(_numbers(earlier["gists"]), agreed.probe.gists))
        if off > agreed.tolerance:
            raise CollectError(
                f"run {row['run_id']} of this store, on {', '.join(earlier['workers'])}, had the same model "
                f"hash and differs by {off:.3g} nats per token on the same probe, where "
                f"{agreed.tolerance:.2g} is noise: labels of both would not be of one model. Load the "
                "weights as then (the runs' `software` says with what), or use another --store"
            )


def _earlier(store: Store, provenance: Provenance) -> list[Mapping[str, Any]]:
    """The first run with each kind of gists, of those with this model, tokenizer and dtype."""
    query = (
        "select distinct on (gist_hash, probe.gist_block_size) run_id, gist_hash, probe from stored_runs "
        "where model_hash = ? and tokenizer_hash = ? and dtype = ? and probe.version = ? "
        "order by gist_hash, probe.gist_block_size, recorded_at"
    )
    asked = (provenance.model_hash, provenance.tokenizer_hash, provenance.dtype, PROBE_VERSION)
    return list(fetch_rows(connect(store.at()), query, *asked))


def _median(probes: Sequence[Probe]) -> Probe:
    nll, no_op, *rest = (
        median([value for value in values if not math.isnan(value)] or [math.nan])
        for values in zip(*((p.nll, p.no_op, *p.delta_nll, *p.gists) for p in probes), strict=True)
    )
    num_labels = len(probes[0].delta_nll)
    return Probe(nll, tuple(rest[:num_labels]), tuple(rest[num_labels:]), no_op, probes[0].where)


def _disagreement(found: Sequence[NamedProbe], middle: Probe, largest: float, tolerance: float) -> str:
    noise = f"on the same probe, where {tolerance:.2g} is noise"
    if len(found) == 2:
        return (
            f"{found[0]} and {found[1]} differ by {largest:.3g} nats per token {noise}: the weights, dtype "
            "or device of one of them are not what they should be; run on each alone to see which, and leave "
            "it out"
        )
    differences = [(one, largest_difference(one.probe.values, middle.values)) for one in found]
    off = [f"{one} by {by:.3g}" for one, by in differences if by > tolerance / 2]
    return (
        f"{len(off)} of {len(found)} workers differ from the others' median {noise} (nats per token): "
        f"{', '.join(off)}; {_REMEDY}"
    )


def _refuse_infinite(one: NamedProbe) -> None:
    if not math.isfinite(one.probe.nll):
        raise CollectError(
            f"the base model's loss is not finite on a short probe of its own vocabulary ({one}): no label "
            "would be a number; try model.dtype = float32, or copy the model again"
        )


def _nullable(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
