"""Items that cannot be measured: tried again, given up with a reason, left out until they are asked for."""

import errno
import os

import pytest

from mctrace.collect.cluster import faults
from mctrace.collect.workers import worker_pool
from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.upkeep.run_log import logged_quarantine
from mctrace.errors import CollectError
from tests.collect.runs import tiny_run


def failing(is_poison, error: Exception, times: int = 10**9):
    """Pool whose worker raises `error` for each item that is poison, so many times."""
    left = [times]

    def start(context) -> InProcessPool:
        pool = InProcessPool(context)
        measure = pool._worker.measure

        def poisoned(item):
            if item.purpose == "keep" and is_poison(item) and left[0]:
                left[0] -= 1
                raise error
            return measure(item)

        pool._worker.measure = poisoned
        return pool

    return start


def test_what_stands_beside_a_trajectory_in_quarantine_is_neither_kept_nor_measured_again(
    tiny_settings, tmp_path
):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.drop_controls": True})
    bad = next(unit.part_id for unit in run.plan.units if unit.kind == "trajectory")
    beside = [unit for unit in run.plan.units if unit.trajectory_id == bad]
    assert len(beside) == 2
    summary = run.measure(failing(lambda item: item.unit.part_id == bad, ValueError("no such token")))
    assert summary.num_quarantined == 1
    assert {unit.part_id for unit in run.plan.missing(run.store)} == {unit.part_id for unit in beside}
    again = run.measure()
    assert (again.run_id, again.num_in_quarantine) == (None, 2)
    (row,) = logged_quarantine(run.store.at())
    assert (row["trajectory_id"], row["num_attempts"]) == (bad, 3)
    assert row["reason"] == "ValueError: no such token"
    run.measure(retry_quarantined=True)
    assert run.plan.missing(run.store) == []
    assert logged_quarantine(run.store.at()) == []


def test_a_side_measurement_in_quarantine_leaves_its_trajectory(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.drop_controls": True})
    bad = next(unit for unit in run.plan.units if unit.kind == "drops")
    run.measure(failing(lambda item: item.unit.part_id == bad.part_id, ValueError("x")))
    assert run.plan.missing(run.store) == [bad]
    rows = fetch_rows(connect(run.store.at()), "select kind, trajectory_id from quarantined")
    assert list(rows) == [{"kind": "drops", "trajectory_id": bad.trajectory_id}]


def test_a_run_that_can_measure_nothing_ends_after_some_items(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    with pytest.raises(CollectError, match=r"none of the first 3 items .* ValueError: broken; .*--retry"):
        run.measure(failing(lambda _: True, ValueError("broken")))
    (row,) = fetch_rows(connect(run.store.at()), "select outcome from runs")
    assert row["outcome"] == "failed"
    assert len(list(fetch_rows(connect(run.store.at()), "from quarantined"))) == 3


def test_infrastructure_that_recovers_is_waited_for_and_nothing_is_quarantined(
    tiny_settings, tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr(worker_pool.time, "sleep", pauses.append)
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})
    fault = OSError(errno.EIO, os.strerror(errno.EIO))
    summary = run.measure(failing(lambda _: True, fault, times=4))
    assert pauses == [1, 2, 4, 8]
    assert summary.num_quarantined == 0
    assert run.plan.missing(run.store) == []


def test_infrastructure_that_does_not_recover_ends_the_run(tiny_settings, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(worker_pool.time, "sleep", pauses.append)
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})
    with pytest.raises(CollectError, match=r"reset, 9 times in a row; .*the same command"):
        run.measure(failing(lambda _: True, ConnectionResetError(errno.ECONNRESET, "reset")))
    assert len(pauses) == faults.MOST_FAULTS
