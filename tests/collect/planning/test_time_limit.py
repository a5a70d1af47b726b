"""What makes a run fit a time."""

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.forecast import Forecast
from mctrace.collect.planning.time_limit import WithinHours, within_hours


def lasting(hours: float) -> Forecast:
    return Forecast(10, 20, 100, Work(), 1e12, 3600 * hours, 1000)


def test_a_run_that_fits_stays_as_it_is():
    assert within_hours(1, lasting(0.9), 2, 30, 20) == WithinHours(1, True, 2, 30)


def test_more_workers_or_fewer_documents_beside_those_that_are_done():
    # Two workers take 4.2 hours for 20 documents: nine would take 0.93, and two measure 4.76 in one.
    assert within_hours(1, lasting(4.2), 2, 30, 20) == WithinHours(1, False, 9, 14)


def test_not_one_document_may_fit():
    assert within_hours(0.5, lasting(100), 1, 20, 20) == WithinHours(0.5, False, 200, 0)
