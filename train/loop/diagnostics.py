"""Diagnostics of the last training batch: score statistics, histograms and correlations.

Computed for telemetry lines only, not at every step. The correlations are those of
docs/specification/metrics.md#telemetry: one per snapshot, of which mean, smallest and largest are reported.

Shapes: B snapshots, N entries (padded).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.evaluation.preference_metrics import correlations_of_groups
from mctrace.train.evaluation.snapshot_metrics import SnapshotMetrics, snapshot_metrics
from mctrace.train.loop.telemetry import Histogram, Value
from mctrace.train.networks.focus import Focus, Scores, signed_scores
from mctrace.train.objectives.budget import budget_masses, focus_masses
from mctrace.train.objectives.lensnet_gradients import ScoredExamples
from mctrace.train.objectives.preference import preference_telemetry

NUM_BINS = 41
_CORRELATIONS = ("utility_correlation", "score_delta_nll_expand", "score_delta_nll_collapse")


def batch_diagnostics(scored: ScoredExamples | None) -> dict[str, Value]:
    """All diagnostics of the scored examples; empty for None."""
    if scored is None:
        return {}
    found: dict[str, Value] = {}
    if scored.examples.labels is not None and scored.label_scores is not None:
        found |= label_diagnostics(scored.label_scores.float(), scored.examples.labels)
    if scored.examples.pairs is not None and scored.pair_scores_BN is not None:
        pairs, scores_BN = scored.examples.pairs, scored.pair_scores_BN.float()
        found |= preference_telemetry(scores_BN, pairs)
        found |= spread("preference_corr", correlations_of_groups(scores_BN, pairs.every_move or pairs))
        if scored.examples.labels is None:
            found |= score_diagnostics(scores_BN, pairs.contexts)
    return found


def label_diagnostics(scores: Scores, batch: Batch) -> dict[str, Value]:
    """`score_diagnostics` and snapshot metrics: `_mean`, `_min` and `_max` over snapshots of correlations,
    the mean over snapshots of all others, `mse` per level among them."""
    snapshots = snapshot_metrics(scores, batch)
    found: dict[str, Value] = {**score_diagnostics(scores, batch)}
    for name in snapshots[0]:
        values = _defined(snapshots, name)
        if name in _CORRELATIONS:
            found |= spread(name, values)
        elif values:
            found[name] = fmean(values)
    return found


def score_diagnostics(scores: Scores, batch: Batch) -> dict[str, Value]:
    """Statistics of the scores [B, N] of real entries: `score_mean`, `score_std`, `score_min`, `score_max`,
    `score_histogram`; and `expansion_mass`, `collapse_mass`, means over snapshots in score·positions.

    Of a network with a price they are of the signed, masked scores; `price_mean`, `_min` and `_max` are of
    an action's K − 1 positions, in score units, and `value_mean` and `value_std` of the legal values.
    """
    if isinstance(scores, Focus):
        masses, scores_BN = focus_masses(scores, batch), signed_scores(scores, batch)
        expansion_B, collapse_B = masses[0][:, 0], masses[1][:, 0]
        more = _price_diagnostics(scores, batch)
    else:
        expansion_B, collapse_B = budget_masses(scores, batch)
        scores_BN, more = scores, {}
    return {**_statistics(scores_BN[batch.entry_mask].double().cpu(), expansion_B, collapse_B), **more}


def _price_diagnostics(focus: Focus, batch: Batch) -> dict[str, Value]:
    prices = (focus.price_BR[:, 0] * (batch.block_size - 1)).tolist()
    values = torch.cat([focus.expand_BN[batch.can_expand], focus.collapse_BN[batch.can_collapse]]).double()
    found: dict[str, Value] = {**spread("price", prices)}
    if len(values):
        found |= {"value_mean": float(values.mean()), "value_std": float(values.std(correction=0))}
    return found


def _statistics(scores: Tensor, expansion_B: Tensor, collapse_B: Tensor) -> dict[str, Value]:
    return {
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        "score_min": float(scores.min()),
        "score_max": float(scores.max()),
        "score_histogram": histogram(scores),
        "expansion_mass": float(expansion_B.mean()),
        "collapse_mass": float(collapse_B.mean()),
    }


def histogram(values: Tensor) -> Histogram:
    """Histogram of float64 values on the CPU: bins of equal width from the smallest value to the largest."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = torch.histogram(values, bins=NUM_BINS, range=(low, high))
    return Histogram(
        tuple(edges.tolist()),
        tuple(int(count) for count in counts.tolist()),
        float(values.sum()),
        float((values**2).sum()),
    )


def spread(name: str, values: Sequence[float]) -> Mapping[str, float]:
    """`<name>_mean`, `_min` and `_max` of `values`; empty for no values."""
    if not values:
        return {}
    return {f"{name}_mean": fmean(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def _defined(snapshots: Sequence[SnapshotMetrics], name: str) -> list[float]:
    values = (metrics[name].value() for metrics in snapshots)
    return [value for value in values if value is not None]
