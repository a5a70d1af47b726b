"""An alarm for a LensNet that learns the wrong sign, which no loss shows and every edit then pays for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mctrace.train.loop.telemetry import Value

RIGHT_SIGNS = {"utility_correlation": 1, "preference_corr_mean": -1}
"""docs/specification/metrics.md#expected-signs: scores rise with targets, fall with a move's loss"""


@dataclass
class SignAlert:
    """A sink that calls `warn` when a correlation has had the wrong sign for `patience` validations in a row.

    Once per bad spell: it has to turn right before it can be warned of again.
    """

    warn: Callable[[str], None]
    patience: int
    num_wrong: dict[str, int] = field(default_factory=dict)

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        if split != "validation":
            return
        for name, sign in RIGHT_SIGNS.items():
            value = values.get(name)
            if not isinstance(value, float):
                continue
            self.num_wrong[name] = self.num_wrong.get(name, 0) + 1 if value * sign < 0 else 0
            if self.num_wrong[name] == self.patience:
                wanted = "positive" if sign > 0 else "negative"
                self.warn(
                    f"{name} should be {wanted} and has been {value:.3g} or alike for {self.patience} "
                    f"evaluations in a row, up to step {step}: the scores point the wrong way. Look at the "
                    "target's signs, at the labels' noise, and whether there is anything to learn at all"
                )
