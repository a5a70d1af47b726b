"""Measurement of one work unit: baseline, then its actions, audits, controls, joint edits or attention.

Tensors in, values out; `worker.py` writes them as rows.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.collect.measuring.estimator_agreement import LabelPair
from mctrace.collect.measuring.evaluator import Baseline, Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.extracted_labels import with_extracts
from mctrace.collect.measuring.gradient_estimator import estimate_edits
from mctrace.collect.measuring.kept_labels import measure_kept_edits
from mctrace.collect.measuring.kept_reading import read_kept
from mctrace.collect.planning.edit_places import ContextPlaces
from mctrace.collect.planning.edits import Edit, no_edit
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.collect.planning.gradient_passes import gradient_work
from mctrace.collect.planning.work_units import (
    LabelledTrajectory,
    PlannedAttention,
    PlannedEffect,
    PlannedJoints,
    WorkUnit,
)
from mctrace.context.actions import Action
from mctrace.gists.network.anchored_gists import AnchoredGists, ExtractedGists, KeptGists

_NOISE_EDITS = 8
"""actions whose labels are compared between two batch compositions, evenly over the context"""


@dataclass(frozen=True)
class Effect:
    """A planned effect and its per-token `delta_nll_H` in nats from the edit's `first_token` on."""

    planned: PlannedEffect
    delta_nll_H: Tensor


@dataclass(frozen=True)
class JointEffect:
    """Actions done at once: per-token `delta_nll_H`, and the sum of their exact effects each alone."""

    actions: tuple[Action, ...]
    edit: Edit
    delta_nll_H: Tensor
    sum_of_singles_H: Tensor


@dataclass(frozen=True)
class UnitMeasurement:
    """A measured unit; `work` is what the base model ran. Where the baseline's loss is not finite there is
    nothing else."""

    baseline: Baseline
    effects: tuple[Effect, ...]
    joints: tuple[JointEffect, ...]
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


def measure_unit(
    model: EvaluatedModel,
    document: DocumentTree,
    unit: WorkUnit,
    batching: Batching,
    anchored: AnchoredGists | None = None,
) -> UnitMeasurement:
    """Measure the baseline, then every edit by the estimator it was planned with.

    With `anchored` gists that are kept, contexts stay as they were read; otherwise what stands behind an edit
    is read again.
    """
    if isinstance(anchored, KeptGists):
        return _measure_kept(model, anchored, document, unit, batching)
    if isinstance(anchored, ExtractedGists):
        read, work = with_extracts(model, anchored, document, unit)
        found = measure_unit(model, document, read, batching)
        # An effect is kept with its place among the map's entries, not among the tokens that were read.
        effects = tuple(
            Effect(planned, one.delta_nll_H)
            for planned, one in zip(unit.effects, found.effects, strict=found.is_finite)
        )
        return replace(found, effects=effects, work=found.work + work)
    trajectory = unit.trajectory
    wants_attention = isinstance(unit, PlannedAttention)
    groups = unit.edits_by_estimator
    deltas: list[Tensor] = []
    if groups and groups[0][0].name == "gradient":
        (estimator, edits), *groups = groups
        estimated = estimate_edits(model, document, trajectory, edits, batching, segment=estimator.segment)
        baseline, work = (
            estimated.baseline,
            gradient_work(ContextPlaces(trajectory), edits, estimator.segment),
        )
        deltas += estimated.deltas
    else:
        baseline = measure_baseline(model, document, trajectory, attention_mass=wants_attention)
        work = baseline_pass(trajectory).work
    if not torch.isfinite(baseline.nll_H).all():
        return UnitMeasurement(baseline, (), (), work)
    for estimator, edits in groups:
        measured = measure_edits(
            model, document, trajectory, edits, baseline, batching, window=estimator.window
        )
        deltas += measured.deltas
        work += measured.work
    if isinstance(unit, PlannedJoints):
        return UnitMeasurement(baseline, (), tuple(_joint_effects(unit, deltas)), work)
    planned = unit.effects
    if isinstance(unit, LabelledTrajectory) and unit.screening is not None and deltas:
        size_A = np.array([abs(_label(delta_H, unit)) for delta_H in deltas])
        chosen = unit.screened(np.nan_to_num(size_A))
        edits = [effect.edit for effect in chosen]
        measured = measure_edits(model, document, trajectory, edits, baseline, batching)
        planned, deltas = planned + chosen, [*deltas, *measured.deltas]
        work += measured.work
    effects = tuple(map(Effect, planned, deltas))
    return UnitMeasurement(baseline, effects, (), work)


def _measure_kept(
    model: EvaluatedModel, gists: KeptGists, document: DocumentTree, unit: WorkUnit, batching: Batching
) -> UnitMeasurement:
    """Every edit exactly, on a text that stays as it was read."""
    edits = [edit for _, group in unit.edits_by_estimator for edit in group]
    reading = read_kept(model, gists, document, unit.trajectory, edits, batching)
    if not torch.isfinite(reading.baseline.nll_H).all():
        return UnitMeasurement(reading.baseline, (), (), reading.work)
    measured = measure_kept_edits(model, document, edits, reading, batching)
    joints = tuple(_joint_effects(unit, measured.deltas)) if isinstance(unit, PlannedJoints) else ()
    effects = tuple(map(Effect, unit.effects, measured.deltas))
    return UnitMeasurement(reading.baseline, effects, joints, reading.work + measured.work)


def _joint_effects(unit: PlannedJoints, deltas: Sequence[Tensor]) -> Iterator[JointEffect]:
    """Single effects of the members come first in `deltas`, then the joint ones."""
    num_members = len(unit.members)
    alone = dict(zip(unit.members, deltas[:num_members], strict=True))
    for actions, edit, delta_H in zip(unit.joints, unit.joint_edits, deltas[num_members:], strict=True):
        # All of them lie before the first cursor, so their effects begin at the same token.
        yield JointEffect(
            actions, edit, delta_H, torch.stack([alone[action] for action in actions]).sum(dim=0)
        )


def audit_pairs(unit: WorkUnit, measurement: UnitMeasurement) -> list[LabelPair]:
    """The labels of actions that were measured both ways, at the first horizon each effect has."""
    by_action: dict[Action, dict[bool, float]] = defaultdict(dict)
    if isinstance(unit, LabelledTrajectory) and unit.estimator != EXACT:
        for effect in measurement.effects:
            is_exact = effect.planned.estimator == EXACT
            by_action[effect.planned.sampled.action][is_exact] = _label(effect.delta_nll_H, unit)
    return [
        LabelPair(action.kind, action.node.level, exact=both[True], estimated=both[False])
        for action, both in by_action.items()
        if len(both) == 2
    ]


@torch.inference_mode()
def measure_noise(
    model: EvaluatedModel,
    document: DocumentTree,
    unit: WorkUnit,
    batching: Batching,
    anchored: AnchoredGists | None = None,
) -> NoiseFloor | None:
    """Largest change of this trajectory's labels when nothing about them changes; None without a finite loss.

    A no-op runs half the context again on the baseline's keys and values, or what any edit of gists that are
    kept runs; some actions are measured one at a time and then in batches.
    """
    if isinstance(anchored, ExtractedGists):
        unit, _ = with_extracts(model, anchored, document, unit)
    trajectory = unit.trajectory
    every = [effect.edit for effect in unit.effects]
    edits = every[:: -(-len(every) // _NOISE_EDITS)]
    nothing = no_edit(trajectory, trajectory.head.num_entries // 2)
    if not isinstance(anchored, KeptGists):
        baseline = measure_baseline(model, document, trajectory)
        measure = partial(measure_edits, model, document, trajectory, baseline=baseline)
        longest = max(one.num_entries for one in plan_passes(trajectory, edits, None, 1))
        num_passes = len(plan_passes(trajectory, edits, None, max(batching.tokens, 2 * longest)))
    else:
        reading = read_kept(model, anchored, document, trajectory, [*edits, nothing], batching)
        baseline, measure = reading.baseline, partial(measure_kept_edits, model, document, reading=reading)
        longest = trajectory.end - trajectory.first_cursor
        num_passes = len({edit.first_token for edit in edits})
    if not torch.isfinite(baseline.nll_H).all():
        return None

    def labels(some: Sequence[Edit], batch_tokens: int) -> Tensor:
        deltas = measure(some, batching=Batching(batch_tokens)).deltas
        return torch.tensor([_label(delta_H, unit) for delta_H in deltas])

    no_op = labels([nothing], batching.tokens)
    regrouped = None
    if num_passes < len(edits):
        together = labels(edits, max(batching.tokens, 2 * longest))
        regrouped = float((labels(edits, 1) - together).abs().max())
    return NoiseFloor(float(no_op.abs().max()), regrouped)


def _label(delta_nll_H: Tensor, unit: WorkUnit) -> float:
    return float(delta_nll_H[: unit.trajectory.horizon].mean())
