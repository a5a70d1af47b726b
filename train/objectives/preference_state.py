"""Running state of the preference objective, kept from step to step and in resume states.

Shapes: B contexts, N entries (padded).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.objectives.config import PreferenceConfig

SMALLEST_DEVIATION = 1e-6
"""floor of the deviation, nats per token: smaller differences between variants are not learned"""
_PREVIOUS = "previous/"


class PreferenceState:
    """Running moments of the advantages, the running net mass, and each context's previous scores.

    All workers of a data-parallel run observe the same values and hold the same state.
    """

    def __init__(self, objective: PreferenceConfig) -> None:
        self._objective = objective
        self._adv_mean = 0.0
        self._adv_variance: float | None = None
        self._net_mass = 0.0
        self._previous: dict[str, Tensor] = {}

    @property
    def adv_deviation(self) -> float:
        """Running standard deviation of adv_delta, nats per token; 1 before the first observation."""
        if self._adv_variance is None:
            return 1.0
        return max(math.sqrt(self._adv_variance), SMALLEST_DEVIATION)

    @property
    def net_mass(self) -> float:
        """Running mean of the contexts' (P − N) / (P + N)."""
        return self._net_mass

    def observe_advantages(self, adv_deltas: Sequence[float]) -> None:
        """Update with a step's advantages: m ← β·m + (1 − β)·mean, likewise the variance about the new m."""
        if not adv_deltas:
            return
        values = torch.tensor(adv_deltas, dtype=torch.float64)
        first = self._adv_variance is None
        beta = 0.0 if first else self._objective.adv_norm_beta
        self._adv_mean = beta * self._adv_mean + (1 - beta) * float(values.mean())
        spread = float(((values - self._adv_mean) ** 2).mean())
        self._adv_variance = beta * (self._adv_variance or 0.0) + (1 - beta) * spread

    def set_advantages(self, mean: float, variance: float) -> None:
        """Set the moments to those of known advantages."""
        self._adv_mean, self._adv_variance = mean, variance

    def observe_scores(self, scores: Mapping[str, Tensor], net_masses: Sequence[float]) -> None:
        """Store a step's scores [N] by snapshot, and update the running net mass."""
        if self._objective.kl_weight:
            self._previous.update({name: value.detach().float().cpu() for name, value in scores.items()})
        if net_masses:
            beta = self._objective.budget_smooth_beta
            self._net_mass = beta * self._net_mass + (1 - beta) * sum(net_masses) / len(net_masses)

    def previous_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Last observed scores of each context [B, N], and a mask [B] of the contexts that have any."""
        previous_BN = batch.context_embeddings.new_zeros(batch.levels.shape)
        known_B = torch.zeros(len(batch), dtype=torch.bool, device=previous_BN.device)
        for row, name in enumerate(batch.snapshot_ids):
            if name in self._previous:
                found_N = self._previous[name]
                previous_BN[row, : len(found_N)] = found_N.to(previous_BN.device)
                known_B[row] = True
        return previous_BN, known_B

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as tensors, for a checkpoint."""
        moments = [
            self._adv_mean,
            float("nan") if self._adv_variance is None else self._adv_variance,
            self._net_mass,
        ]
        kept = {_PREVIOUS + name: scores_N for name, scores_N in self._previous.items()}
        return {"moments": torch.tensor(moments, dtype=torch.float64), **kept}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        mean, variance, net_mass = tensors["moments"].tolist()
        self._adv_mean, self._net_mass = mean, net_mass
        self._adv_variance = None if math.isnan(variance) else variance
        self._previous = {
            name.removeprefix(_PREVIOUS): value
            for name, value in tensors.items()
            if name.startswith(_PREVIOUS)
        }
