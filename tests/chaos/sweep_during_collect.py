"""`mctrace verify --sweep --grace 0` again and again while a collection is at work on the same store."""

from tests.chaos.findings import Findings, SceneError, compare, opened
from tests.chaos.fixture import Fixture, wait_for, wait_for_trajectories


def sweep_during_collect(fixture: Fixture) -> Findings:
    """Every sweep is refused in one line or finds nothing of the run's; the run loses nothing."""
    store, unclear, num_sweeps = fixture.folder / "swept", 0, 0
    driver = fixture.start(store, "--no-ray")
    wait_for_trajectories(driver, store, 1)
    while driver.poll() is None:
        log = f"sweep{num_sweeps}.log"
        command = ("verify", f"--store={store}", "--sweep", "--grace=0")
        code = wait_for(fixture.start_command(*command, log=log))
        output = (fixture.folder / log).read_text()
        refused = code == 1 and output.splitlines()[-1].startswith("mctrace: nothing was swept: ")
        unclear += code != 0 and not refused
        num_sweeps += 1
    fixture.finish(driver)
    if not num_sweeps:
        raise SceneError("the collection ended before a sweep began: give it more with --per-document")
    found = compare(opened(store), fixture.whole())
    found.unclear += unclear
    return found
