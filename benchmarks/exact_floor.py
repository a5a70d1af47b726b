"""What remains to be saved on exact labels at one cursor, by planned work alone: no model runs.

An exact label runs [edit ... end of the horizon) on the keys and values of the unedited context. Beyond that
a run pays for the baseline pass, and for entries that a batch recomputes because its rows begin together.
Both could be saved at most whole, which bounds what any sharing gains. The second pass that could be shared
is that of two policies on one document with the same start and cursor: their baselines, and those edits that
both make, agree up to the first entry in which their maps differ, and no further, because every later entry
attends to that one.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL, TREE, Case
from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.edits import Edit, action_edit
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.collect.planning.map_policies import random_map, recency_map
from mctrace.context.trajectory import Trajectory
from mctrace.seeding import generator_for

_RECENCY = (256, 2048)
_RANDOM_LENGTH = 512
_RANDOM_MAPS = 8


def exact_floor(case: Case, flops: Callable[[Work], float], batch_tokens: int) -> dict[str, Any]:
    """Shares of the planned work of a trajectory's exact labels that are not the edits' own.

    `naive_over_exact_work`: naive FLOPs over exact ones, what a label saves at most at equal efficiency.
    """
    trajectory = case.trajectory()
    edits = _edits(trajectory)
    passes = plan_passes(trajectory, edits, None, batch_tokens)
    of_edits, baseline = sum(flops(p.work) for p in passes), flops(baseline_pass(trajectory).work)
    num_run = sum(p.num_entries for p in passes)
    shared = policies_share(case.num_tokens)
    return {
        "map": case.map, "N": case.num_tokens, "R": case.num_cursors, "num_actions": len(edits),
        "naive_over_exact_work": baseline * (len(edits) + 1) / (of_edits + baseline),
        "baseline_share": baseline / (of_edits + baseline),
        "padding_share": 1 - sum(p.num_needed for p in passes) / num_run,
        "shared_by_policies": shared["mean"], "shared_by_policies_at_most": shared["most"],
    }  # fmt: skip


def _edits(trajectory: Trajectory) -> list[Edit]:
    return [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]


def policies_share(num_tokens: int) -> dict[str, float]:
    """Share of the entries that two policies run on one document, with the same start and cursor, that one of
    them need not run: over recency's map and seeded random ones, mean and largest."""
    generator = generator_for("exact floor", num_tokens)
    maps = [recency_map(TREE, 0, num_tokens, _RECENCY)]
    maps += [
        random_map(
            TREE, 0, num_tokens, target_length=min(_RANDOM_LENGTH, num_tokens // 2), num_iterations=3,
            protected_tail=PROTECTED_TAIL, generator=generator, kinds=("expand", "collapse"),
        )
        for _ in range(_RANDOM_MAPS)
    ]  # fmt: skip
    pairs = combinations([Trajectory(head, (num_tokens,), HORIZON) for head in maps], 2)
    shares = [shared_by(*pair) for pair in pairs]
    return {"mean": float(np.mean(shares)), "most": max(shares)}


def shared_by(one: Trajectory, other: Trajectory) -> float:
    """Share of the entries of both trajectories, baselines and all edits, that are computed twice.

    Both begin at the same token and read the same ones.
    """
    common = _num_common(one, other)
    ours, theirs = _edits(one), _edits(other)
    both = {(edit.first_entry, edit.end_entry, edit.length_change) for edit in theirs}
    saved = common + sum(
        common - edit.first_entry + edit.length_change
        for edit in ours
        if edit.end_entry <= common and (edit.first_entry, edit.end_entry, edit.length_change) in both
    )
    total = 0
    for trajectory, edits in ((one, ours), (other, theirs)):
        num_entries = len(trajectory.context.entries) - 1
        total += num_entries + sum(num_entries - e.first_entry + e.length_change for e in edits)
    return saved / total


def _num_common(one: Trajectory, other: Trajectory) -> int:
    """Leading entries that run and are the same nodes; the last entry does not run."""
    (a, b) = (trajectory.context.entries for trajectory in (one, other))
    length = min(len(a), len(b)) - 1
    differs = (a.level_N[:length] != b.level_N[:length]) | (a.index_N[:length] != b.index_N[:length])
    return int(np.argmax(differs)) if differs.any() else length
