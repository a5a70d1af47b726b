"""Settings with which a predicted run ends within a time."""

import math
from dataclasses import dataclass

from mctrace.collect.planning.forecast import Forecast


@dataclass(frozen=True)
class WithinHours:
    """Each of the two alone makes the run fit; both are what is set already where it fits as it is."""

    hours: float
    is_met: bool
    num_actors: int
    """workers as fast as the one that was timed"""
    limit: int
    """documents (`corpus.limit`) with as many workers as were asked for; 0 where not one fits"""


def within_hours(
    hours: float, forecast: Forecast, num_workers: int, num_documents: int, num_missing: int
) -> WithinHours:
    """What fits `hours`. `num_documents` are planned; `num_missing` of them have something to measure."""
    share = 3600 * hours / forecast.seconds
    if share >= 1:
        return WithinHours(hours, True, num_workers, num_documents)
    limit = num_documents - num_missing + math.floor(num_missing * share)
    return WithinHours(hours, False, math.ceil(num_workers / share), limit)
