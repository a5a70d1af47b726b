"""What a run finds out before it measures: its noise floor, and whether the windowed estimator may be used.

The calibration's answer changes the plan, so it is taken once and kept in the runs it decided: the same
command resumes under the same plan.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mctrace.collect.fidelity import Fidelity, compare
from mctrace.collect.identity import part_digest
from mctrace.collect.measurement import NoiseFloor
from mctrace.collect.measuring import WorkItem
from mctrace.collect.passes import Work
from mctrace.collect.planned import PlannedTrajectory
from mctrace.collect.run_plan import RunPlan
from mctrace.collect.workers import Workers
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import Store

CALIBRATION_ACTIONS = 100
"""actions measured both ways before a windowed run, as far as the plan has that many"""
_ACTIONS_PER_TRAJECTORY = 16
"""of one trajectory at most, so that several documents are heard"""


@dataclass(frozen=True)
class RunChecks:
    """Kept in a run's rows. `calibration` is None for a run that was asked to be exact."""

    estimator: str = "exact"
    estimator_window: int | None = None
    noise_floor: NoiseFloor | None = None
    calibration_id: str | None = None
    calibration: Fidelity | None = None


def calibration_id(plan: RunPlan) -> str:
    """A hash of the actions that would be compared; part ids carry everything else they depend on."""
    items = _calibration_items(plan)
    return part_digest({"calibration": [(i.planned.part_id, len(i.planned.actions)) for i in items]})


def known_calibration(store: Store | None, plan: RunPlan) -> Fidelity | None:
    """What an earlier run found for the same calibration sample."""
    if store is None or not plan.is_windowed:
        return None
    query = "select calibration from stored_runs where calibration_id = ? and calibration is not null limit 1"
    rows = fetch_rows(connect(store.at()), query, calibration_id(plan))
    return Fidelity(**rows[0]["calibration"]) if rows else None


def calibration_work(plan: RunPlan, batch_tokens: int) -> Work:
    """What the base model has to do for `calibrate`."""
    return sum((item.planned.work(batch_tokens) for item in _calibration_items(plan)), start=Work())


def calibrate(workers: Workers, plan: RunPlan) -> Fidelity:
    """The windowed estimator against the exact one on a seeded sample of the plan's actions."""
    finished = workers.measure(_calibration_items(plan))
    return compare(pair for done in finished for pair in done.pairs)


def decide(plan: RunPlan, calibration: Fidelity | None, min_spearman: float) -> RunPlan:
    """The plan itself, or its exact form when the calibration is below `min_spearman` or says nothing."""
    if not plan.is_windowed or calibration is None:
        return plan
    passed = calibration.spearman is not None and calibration.spearman >= min_spearman
    return plan if passed else plan.exactly()


def find_noise_floor(
    workers: Workers, plan: RunPlan, remaining: Sequence[PlannedTrajectory]
) -> NoiseFloor | None:
    """Measured on the shortest trajectory that has actions; None when none has."""
    with_actions = [planned for planned in remaining if planned.actions]
    if not with_actions:
        return None
    planned = min(with_actions, key=lambda p: (p.trajectory.num_positions, p.part_id))
    item = WorkItem(plan.documents[planned.document_id], planned, purpose="noise")
    return next(iter(workers.measure([item]))).noise_floor


def _calibration_items(plan: RunPlan) -> list[WorkItem]:
    return list(_until_enough(plan, sorted(plan.trajectories, key=lambda p: _shuffled(p.part_id))))


def _until_enough(plan: RunPlan, trajectories: Sequence[PlannedTrajectory]) -> Iterator[WorkItem]:
    wanted = CALIBRATION_ACTIONS
    for planned in trajectories:
        if wanted <= 0:
            return
        # Evenly over the list, which is ordered by action and place.
        step = max(1, len(planned.actions) // _ACTIONS_PER_TRAJECTORY)
        actions = planned.actions[::step][: min(wanted, _ACTIONS_PER_TRAJECTORY)]
        if not actions:
            continue
        wanted -= len(actions)
        sample = replace(planned, actions=actions, audited=tuple(range(len(actions))), controls=(), joints=())
        yield WorkItem(plan.documents[planned.document_id], sample, purpose="compare")


def _shuffled(part_id: str) -> str:
    return hashlib.sha256(f"calibration {part_id}".encode()).hexdigest()
