"""Strength of the colour that shows a value beside others."""

from collections.abc import Sequence

import numpy as np


def shades(values: Sequence[float | None]) -> list[float | None]:
    """Per value a signed strength from -1 to 1, None for None.

    The middle 95% of the sizes span it; it grows with the square root, because values have a heavy tail and
    beside the largest all others would look like nothing.
    """
    sizes = [abs(value) for value in values if value is not None]
    scale = float(np.quantile(sizes, 0.95, method="higher")) if sizes else 0.0
    return [None if value is None else _shade(value, scale) for value in values]


def _shade(value: float, scale: float) -> float:
    return float(np.sign(value) * min(1.0, abs(value) / scale) ** 0.5) if scale else 0.0
