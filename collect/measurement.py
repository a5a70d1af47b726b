"""Everything that is measured on one planned trajectory: baseline, actions, audits, controls, joint edits.

Tensors in, values out; what is written of them is `measuring.py`'s business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.collect.edits import Edit, no_edit
from mctrace.collect.evaluator import (
    Baseline,
    Batching,
    DocumentTree,
    EvaluatedModel,
    measure_baseline,
    measure_edits,
)
from mctrace.collect.fidelity import Pair
from mctrace.collect.passes import Work, baseline_pass, plan_passes
from mctrace.collect.planned import PlannedTrajectory
from mctrace.collect.sampling import SampledAction

_NOISE_EDITS = 8
"""actions whose labels are compared between two batch compositions, evenly over the context"""


@dataclass(frozen=True)
class Effect:
    """What was measured for one edit of one node: per-token `delta_nll_H` in nats from the edit's
    `first_token` on. `kind` is the action's, or `drop` for a control; `estimator_window` None is exact."""

    kind: str
    sampled: SampledAction
    edit: Edit
    delta_nll_H: Tensor
    estimator_window: int | None


@dataclass(frozen=True)
class Measurement:
    """A measured trajectory. `joints` are the per-token effects of `planned.joints`; `work` is what the base
    model ran. Where the baseline's loss is not finite there is nothing else."""

    baseline: Baseline
    effects: tuple[Effect, ...]
    joints: tuple[Tensor, ...]
    work: Work

    @property
    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.baseline.nll_H).all())


@dataclass(frozen=True)
class NoiseFloor:
    """Largest difference of a label, nats per token, that is nothing but the order of arithmetic: `no_op` for
    an edit that changes nothing, `regrouped` for the same edits in another batch composition; None where no
    two edits can share a batch. What a dtype rounds away is not in it."""

    no_op: float
    regrouped: float | None


def measure_planned(
    model: EvaluatedModel, document: DocumentTree, planned: PlannedTrajectory, batching: Batching
) -> Measurement:
    """The baseline, then every edit by the estimator it was planned with."""
    trajectory = planned.trajectory
    baseline = measure_baseline(model, document, trajectory, attention_mass=planned.attention_mass)
    work = baseline_pass(trajectory).work
    if not torch.isfinite(baseline.nll_H).all():
        return Measurement(baseline, (), (), work)
    deltas: list[Tensor] = []
    for edits, window in planned.edits_by_window:
        measured = measure_edits(model, document, trajectory, edits, baseline, batching, window=window)
        deltas += measured.deltas
        work += measured.work
    num_joints = len(planned.joints)
    return Measurement(
        baseline,
        tuple(_effects(planned, deltas[: len(deltas) - num_joints])),
        tuple(deltas[len(deltas) - num_joints :]),
        work,
    )


def _effects(planned: PlannedTrajectory, deltas: Sequence[Tensor]) -> list[Effect]:
    """In the order in which `edits_by_window` lists the edits."""
    window, actions = planned.estimator_window, planned.actions
    named: list[tuple[str, SampledAction, int | None]]
    named = [(sampled.action.kind, sampled, window) for sampled in actions]
    named += [("drop", actions[i], window) for i in planned.controls]
    named += [(actions[i].action.kind, actions[i], None) for i in planned.audited]
    named += [("drop", actions[planned.controls[i]], None) for i in planned.audited_controls]
    edits = planned.action_edits + planned.control_edits + planned.audit_edits
    return [
        Effect(kind, sampled, edit, delta_nll_H, estimator_window)
        for (kind, sampled, estimator_window), edit, delta_nll_H in zip(named, edits, deltas, strict=True)
    ]


def audit_pairs(planned: PlannedTrajectory, measurement: Measurement) -> list[Pair]:
    """The labels of actions that were measured both ways, at the first horizon each effect has."""
    if planned.estimator_window is None:
        return []
    exact = {
        effect.sampled.action: effect
        for effect in measurement.effects
        if effect.estimator_window is None and effect.kind != "drop"
    }
    pairs = []
    for effect in measurement.effects:
        action = effect.sampled.action
        if effect.kind != "drop" and effect.estimator_window is not None and action in exact:
            labels = [_label(e.delta_nll_H, planned) for e in (exact[action], effect)]
            pairs.append(Pair(action.kind, action.node.level, *labels))
    return pairs


@torch.inference_mode()
def measure_noise(
    model: EvaluatedModel, document: DocumentTree, planned: PlannedTrajectory, batching: Batching
) -> NoiseFloor | None:
    """How far labels of this trajectory move when nothing about them changes; None without a finite loss.

    A no-op runs half the context again on kept keys and values; some actions are measured one at a time and
    then in batches.
    """
    trajectory = planned.trajectory
    edits = planned.action_edits[:: -(-len(planned.action_edits) // _NOISE_EDITS)]
    baseline = measure_baseline(model, document, trajectory)
    if not torch.isfinite(baseline.nll_H).all():
        return None

    def labels(some: Sequence[Edit], batch_tokens: int) -> Tensor:
        grouped = Batching(batch_tokens)
        measured = measure_edits(model, document, trajectory, some, baseline, grouped)
        return torch.tensor([_label(delta_H, planned) for delta_H in measured.deltas])

    no_op = labels([no_edit(trajectory, trajectory.head.num_entries // 2)], batching.tokens)
    longest = max(one.num_entries for one in plan_passes(trajectory, edits, None, 1))
    batch_tokens = max(batching.tokens, 2 * longest)
    regrouped = None
    if len(plan_passes(trajectory, edits, None, batch_tokens)) < len(edits):
        regrouped = float((labels(edits, 1) - labels(edits, batch_tokens)).abs().max())
    return NoiseFloor(float(no_op.abs().max()), regrouped)


def _label(delta_nll_H: Tensor, planned: PlannedTrajectory) -> float:
    return float(delta_nll_H[: planned.trajectory.horizon].mean())
