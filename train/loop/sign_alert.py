"""Alert for a LensNet that learns the wrong sign: losses do not show it, and it reverses every edit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mctrace.train.loop.telemetry import Value

RIGHT_SIGNS = {"utility_correlation": 1, "preference_corr_mean": -1}
"""expected sign of each correlation (docs/specification/metrics.md#expected-signs)"""


@dataclass
class SignAlert:
    """Telemetry sink that warns after `patience` validations in a row with a correlation of the wrong sign.

    Warns once; a validation of the right sign arms it again.
    """

    warn: Callable[[str], None]
    patience: int
    least: float = 0.0
    """size below which a correlation counts as missing; 0: only its sign is watched"""
    num_wrong: dict[str, int] = field(default_factory=dict)

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        if split != "validation":
            return
        for name, sign in RIGHT_SIGNS.items():
            value = values.get(name)
            if not isinstance(value, float):
                continue
            is_wrong = value * sign < 0 or abs(value) < self.least
            self.num_wrong[name] = self.num_wrong.get(name, 0) + 1 if is_wrong else 0
            if self.num_wrong[name] == self.patience:
                wanted = "positive" if sign > 0 else "negative"
                size = f", or been smaller than {self.least:g}," if self.least else ""
                self.warn(
                    f"{name} should be {wanted}, but was {value:.3g} at step {step} and has had the wrong "
                    f"sign{size} for {self.patience} evaluations in a row. Check the target's signs, the "
                    "labels' noise, and that the labels hold any signal"
                )
