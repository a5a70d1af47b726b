"""Calibration of a run before it measures: its estimator against the exact one, and the noise floor.

The calibration's answer changes the plan, so it is taken once and kept in the runs it decided: the same
command resumes under the same plan.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from mctrace.base_model.flop_counts import Work
from mctrace.collect.config import CollectConfig
from mctrace.collect.measuring.estimator_agreement import (
    EstimatorAgreement,
    LabelPairs,
    StratumAgreement,
    compare_estimators,
)
from mctrace.collect.measuring.unit_measurement import NoiseFloor
from mctrace.collect.planning.action_sampling import even_quotas
from mctrace.collect.planning.estimators import EXACT, Estimator
from mctrace.collect.planning.part_ids import EVALUATOR_VERSION
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.work_units import LabelledTrajectory
from mctrace.collect.workers.worker import Finished, WorkItem
from mctrace.collect.workers.worker_agreement import WorkerAgreement
from mctrace.collect.workers.worker_pool import WorkerPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.parts import part_digest
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.progress import Progress
from mctrace.seeding import generator_for

_MIN_TRAJECTORIES = 8
"""fewest trajectories whose actions a calibration is drawn from, so that several documents take part"""
_NOISE_ACTIONS = 3
"""wanted of the trajectory on which the noise floor is measured"""
_CONTEXT_KEYS = (
    "policies", "horizon", "cursors_per_trajectory", "cursor_stride", "window", "lod0_window",
    "recency_level_tokens", "train_wc_length", "random_variant_iterations", "protected_tail",
    "estimator_window",
)  # fmt: skip
"""settings that determine the contexts a calibration is valid for"""


@dataclass(frozen=True)
class RunChecks:
    """Kept in a run's rows. `calibration` is None for a run that was asked to be exact."""

    estimator: Estimator = EXACT
    noise_floor: NoiseFloor | None = None
    calibration_id: str | None = None
    calibration: EstimatorAgreement | None = None
    agreement: WorkerAgreement | None = None


class Planned(Protocol):
    """What a plan depends on, be it a stream or whole."""

    @property
    def provenance(self) -> Provenance: ...

    @property
    def lensnet_identity(self) -> str | None: ...

    @property
    def estimator(self) -> Estimator: ...


def calibration_id(plan: Planned, config: CollectConfig) -> str:
    """Hash of all that determines an estimator's quality, without the documents: a growing corpus
    keeps the estimator its first labels were measured with."""
    settings = {key: value for key, value in asdict(config).items() if key in _CONTEXT_KEYS}
    return part_digest(
        {
            # How contexts are read follows from the gists' hash.
            **{k: v for k, v in asdict(plan.provenance).items() if k not in plan.provenance.reading_columns},
            **settings,
            **({"led_by": plan.lensnet_identity} if plan.lensnet_identity else {}),
            **({"estimator": "gradient"} if plan.estimator.name == "gradient" else {}),
            "evaluator_version": EVALUATOR_VERSION,
            "actions": config.calibration_actions,
        }
    )


def known_calibration(store: Store | None, plan: Planned, config: CollectConfig) -> EstimatorAgreement | None:
    """Calibration of the first run with these settings; None when there was none."""
    if store is None or plan.estimator == EXACT:
        return None
    query = (
        "select calibration, calibration_strata from stored_runs where calibration_id = ? "
        "and calibration is not null order by recorded_at limit 1"
    )
    rows = fetch_rows(connect(store.at()), query, calibration_id(plan, config))
    if not rows:
        return None
    strata = tuple(StratumAgreement(**stratum) for stratum in rows[0]["calibration_strata"] or ())
    return EstimatorAgreement(**rows[0]["calibration"], strata=strata)


def calibration_work(plan: RunPlan, num_actions: int, batch_tokens: int) -> Work:
    """Work of the base model for `calibrate`."""
    items = _calibration_items(plan, num_actions)
    return sum((item.unit.work(batch_tokens) for item in items), start=Work())


def calibrate(workers: WorkerPool, plan: RunPlan, num_actions: int, progress: Progress) -> EstimatorAgreement:
    """The plan's estimator against the exact one on a seeded sample of its actions."""
    pairs = LabelPairs()
    for finished in workers.measure(_calibration_items(plan, num_actions)):
        if isinstance(finished, Finished):
            pairs.add(finished.pairs)
            progress.advance(len(finished.pairs))
    return compare_estimators(pairs)


def choose_estimator(plan: RunPlan, calibration: EstimatorAgreement | None, min_spearman: float) -> RunPlan:
    """The plan itself, or its exact form where its calibration is too low (`is_below`)."""
    return plan.exactly() if is_below(plan, calibration, min_spearman) else plan


def is_below(plan: Planned, calibration: EstimatorAgreement | None, min_spearman: float) -> bool:
    """Whether a windowed plan has a calibration, and that one is below `min_spearman` or has no rank
    correlation. Of a gradient run, which is first order by intent, the calibration is only kept.
    """
    if plan.estimator.name != "windowed" or calibration is None:
        return False
    return calibration.spearman is None or calibration.spearman < min_spearman


def measure_noise_floor(workers: WorkerPool, plan: RunPlan) -> NoiseFloor | None:
    """Measure it on a trajectory with several actions, the shortest of them.

    None when none has any, or where that one cannot be measured.
    """
    labelled = [unit for unit in plan.units if isinstance(unit, LabelledTrajectory)]
    most = max((min(len(planned.actions), _NOISE_ACTIONS) for planned in labelled), default=0)
    if not most:
        return None
    enough = [planned for planned in labelled if len(planned.actions) >= most]
    planned = min(enough, key=lambda p: (p.trajectory.num_positions, p.part_id))
    item = WorkItem(plan.documents[planned.document_id], planned, purpose="noise")
    (measured,) = workers.measure([item])
    return measured.noise_floor if isinstance(measured, Finished) else None


def _calibration_items(plan: RunPlan, num_actions: int) -> list[WorkItem]:
    """Actions drawn evenly over (action, node_level) from as few trajectories as hold enough of each."""
    pool: list[tuple[LabelledTrajectory, int]] = []
    drawn_from = 0
    for planned in sorted(_labelled(plan), key=lambda p: _shuffled(p.part_id)):
        if drawn_from >= _MIN_TRAJECTORIES and _is_enough(pool, plan, num_actions):
            break
        pool += [(planned, i) for i in range(len(planned.actions))]
        drawn_from += bool(planned.actions)
    strata: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, (planned, action) in enumerate(pool):
        strata[_stratum(planned, action)].append(i)
    quotas = even_quotas({key: len(members) for key, members in strata.items()}, num_actions)
    chosen: dict[str, list[int]] = defaultdict(list)
    for key, members in sorted(strata.items()):
        generator = generator_for("calibration", *key)
        for pick in generator.choice(len(members), quotas[key], replace=False):
            planned, action = pool[members[pick]]
            chosen[planned.part_id].append(action)
    return [
        _compared(plan, planned, sorted(chosen[planned.part_id]))
        for planned in _labelled(plan)
        if planned.part_id in chosen
    ]


def _compared(plan: RunPlan, planned: LabelledTrajectory, chosen: Sequence[int]) -> WorkItem:
    actions = tuple(planned.actions[i] for i in chosen)
    sample = replace(planned, actions=actions, audited=tuple(range(len(actions))), screening=None)
    return WorkItem(plan.documents[planned.document_id], sample, purpose="compare")


def _is_enough(pool: Sequence[tuple[LabelledTrajectory, int]], plan: RunPlan, num_actions: int) -> bool:
    """True when every stratum of the plan has its even share in the pool, or all the plan has of it."""
    wanted = Counter(_stratum(p, i) for p in _labelled(plan) for i in range(len(p.actions)))
    share = -(-num_actions // max(1, len(wanted)))
    have = Counter(_stratum(*one) for one in pool)
    return all(have[key] >= min(share, count) for key, count in wanted.items())


def _labelled(plan: RunPlan) -> list[LabelledTrajectory]:
    return [unit for unit in plan.units if isinstance(unit, LabelledTrajectory)]


def _stratum(planned: LabelledTrajectory, index: int) -> tuple[str, int]:
    action = planned.actions[index].action
    return action.kind, action.node.level


def _shuffled(part_id: str) -> str:
    return hashlib.sha256(f"calibration {part_id}".encode()).hexdigest()
