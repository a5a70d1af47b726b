"""SIGTERM and Ctrl-C to a collection on Ray."""

import signal

from mctrace.datasets.sql.connection import connect, fetch_rows
from tests.chaos.findings import Findings, compare, opened
from tests.chaos.fixture import Fixture, wait_for, wait_for_trajectories
from tests.chaos.kill_collect_actors import ON_RAY, descendants, end_orphans


def stopped_by(fixture: Fixture, signum: signal.Signals) -> Findings:
    """A driver that is asked to stop records that, keeps what it has, and is finished by the same command."""
    store = fixture.folder / f"stopped-{signum.name}"
    driver = fixture.start(store, *ON_RAY)
    wait_for_trajectories(driver, store, 3)
    family = descendants(driver.pid)
    driver.send_signal(signum)
    code = wait_for(driver)
    end_orphans(family)
    with connect(opened(store).at()) as connection:
        outcomes = [row["outcome"] for row in fetch_rows(connection, "from runs")]
    fixture.finish(fixture.start(store, *ON_RAY))
    found = compare(opened(store), fixture.whole())
    found.unclear += outcomes != ["interrupted"] or code == 0
    return found
