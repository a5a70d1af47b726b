"""How an effect is measured: exactly, or by one of the cheaper estimators with its settings."""

from dataclasses import dataclass
from typing import Literal

EstimatorName = Literal["exact", "windowed", "gradient"]


@dataclass(frozen=True)
class Estimator:
    """Estimator by name: `window` entries that the windowed one recomputes, `segment` tokens of loss that the
    gradient estimator differentiates apart (None: whole horizons)."""

    name: EstimatorName = "exact"
    window: int | None = None
    segment: int | None = None


EXACT = Estimator()
