"""The counterfactual evaluator: how the loss on the next tokens changes when exactly one entry is edited.

Tensors in, tensors out; no files, no clock, no Ray. The baseline runs once and leaves its keys and values;
each edit then runs [edit ... last cursor + H) on top of them, and its effect is

    delta_nll[t] = nll_after[t] - nll_before[t]        for t in [first_token, last cursor + H)

in nats per token, raw and signed. The slow definition it must equal is in `naive_evaluator.py`; which
entries run is planned in `forward_passes.py`.

Shapes: T tokens of the document, N entries, d embedding width, B edits of one pass, L entries that a row
runs, H tokens whose loss is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.base_model.protocol import EvaluatedModel, FrozenModel
from mctrace.base_model.shared_attention import AttentionMass, AttentionPlan, KeyValues, SharedSegment
from mctrace.collect.planning.edits import Edit, no_edit
from mctrace.collect.planning.forward_passes import Pass, baseline_pass, plan_passes
from mctrace.collect.planning.kept_passes import KeptPass
from mctrace.context.trajectory import Trajectory
from mctrace.context.working_context import gather_embeddings
from mctrace.errors import ModelError
from mctrace.progress import Progress

Result = TypeVar("Result")


@dataclass(frozen=True)
class Baseline:
    """Results of the unedited context: per-token NLL [H] from the first cursor on, its keys and values, and
    if asked for the attention its reading entries pay each entry [N - 1] (the last entry does not run)."""

    nll_H: Tensor
    cache: KeyValues
    attention_mass_N: Tensor | None = None


@dataclass
class Batching:
    """Number of entries a pass may run at once; lowered when memory runs out."""

    tokens: int

    def halve(self, failed: Pass | KeptPass) -> None:
        """After `failed` was too large. Raises ModelError when it was a single row already."""
        if len(failed.members) == 1:
            raise out_of_memory("a single edit", failed.row_length)
        self.tokens = max(1, failed.num_entries // 2)


@dataclass(frozen=True)
class EditEffects:
    """Per edit, in the given order, `delta_nll_H` in nats per token from its `first_token` on, and what the
    base model ran for them."""

    deltas: tuple[Tensor, ...]
    work: Work


def check_fits(model: FrozenModel, trajectory: Trajectory) -> None:
    """Raises ModelError when the context spans more positions than the base model has."""
    if trajectory.num_positions > model.max_positions:
        raise ModelError(
            f"a context from token {trajectory.head.start} to {trajectory.end} spans "
            f"{trajectory.num_positions} positions, the base model has {model.max_positions}: "
            "use a later start (a smaller collect.window)"
        )


@torch.inference_mode()
def measure_baseline(
    model: EvaluatedModel, document: DocumentTree, trajectory: Trajectory, *, attention_mass: bool = False
) -> Baseline:
    """The loss of the context as it is, at every token any cursor's horizon reaches."""
    check_fits(model, trajectory)
    whole = baseline_pass(trajectory)
    mass = AttentionMass(whole.first_read) if attention_mass else None
    record = KeyValues()
    plan = AttentionPlan(record=record, mass=mass)
    edits = [no_edit(trajectory, 0)]
    nll_1H = if_it_fits(partial(_run, model, document, trajectory, edits, whole, [plan]))
    if nll_1H is None:
        raise out_of_memory("a whole context", whole.row_length)
    return Baseline(nll_1H[0], record, mass.mean_N() if mass else None)


@torch.inference_mode()
def measure_edits(
    model: EvaluatedModel,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    baseline: Baseline,
    batching: Batching,
    *,
    window: int | None = None,
    progress: Progress | None = None,
) -> EditEffects:
    """The effect of every edit; `window` is that of the windowed estimator, None measures exactly.

    `progress`, which the caller starts and stops, advances by one for each edit. Out of memory, a pass is cut
    in half and the rest of the run with it (`batching` remembers).
    """
    deltas: list[Tensor | None] = [None] * len(edits)
    work = Work()
    left = plan_passes(trajectory, edits, window, batching.tokens)
    while left:
        group = left.pop(0)
        plans = _plans(group, baseline.cache)
        nll_after_BH = if_it_fits(partial(_run, model, document, trajectory, edits, group, plans))
        if nll_after_BH is None:
            batching.halve(group)
            unmeasured = [i for one in (group, *left) for i in one.members]
            again = plan_passes(trajectory, [edits[i] for i in unmeasured], window, batching.tokens)
            left = [one.renumbered(unmeasured) for one in again]
            continue
        work += group.work
        for i, nll_after_H in zip(group.members, nll_after_BH, strict=True):
            deltas[i] = nll_after_H - baseline.nll_H[edits[i].first_token - trajectory.first_cursor :]
        if progress:
            progress.advance(len(group.members))
    return EditEffects(tuple(delta_H for delta_H in deltas if delta_H is not None), work)


def _plans(group: Pass, cache: KeyValues) -> list[AttentionPlan]:
    """One for all rows where they begin at the same entry, otherwise one per row."""
    rows = group.rows if group.rows[0].is_windowed else group.rows[:1]
    return [
        AttentionPlan(
            cache,
            prefix=SharedSegment(0, row.crop, 0),
            kept=SharedSegment(row.kept_first, row.kept_end, row.kept_first + group.length_change),
            num_before=group.num_before,
            own_index=row.crop,
            later_index=row.kept_end + group.length_change,
        )
        for row in rows
    ]


def out_of_memory(what: str, num_entries: int) -> ModelError:
    """Error for a pass of a single row that does not fit."""
    return ModelError(
        f"out of memory on {what} of {num_entries} entries: use a smaller collect.window, a smaller "
        "model or model.dtype, or a device with more memory"
    )


def if_it_fits(run: Callable[[], Result]) -> Result | None:
    """What `run` gives, or None out of memory; what the attempt held is given back."""
    try:
        return run()
    except torch.OutOfMemoryError:
        pass  # the traceback keeps the attempt's tensors alive until this block is left
    torch.cuda.empty_cache()
    return None


def _run(
    model: EvaluatedModel,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    group: Pass,
    plans: Sequence[AttentionPlan],
) -> Tensor:
    """NLL [B, H] of the group's rows after their edits."""
    entries, rows = trajectory.entries, []
    for row in group.rows:
        edit = edits[row.member]
        rows.append(
            entries.sliced(slice(row.crop, edit.first_entry)).followed_by(
                edit.replacement,
                entries.sliced(slice(edit.end_entry, row.kept_first)),
                entries.sliced(slice(row.kept_end, group.last_run)),
            )
        )
    # All rows at once: every copy to a device costs the same, however short.
    whole = rows[0].followed_by(*rows[1:])
    embeddings_Md = gather_embeddings(whole, document.embeddings)
    embeddings_BLd = embeddings_Md.view(len(rows), -1, embeddings_Md.shape[1])
    position_BL = torch.from_numpy(whole.position_N(trajectory.head.start)).view(len(rows), -1)
    first_token = edits[group.members[0]].first_token
    return model.token_nll(
        embeddings_BLd,
        position_BL.to(embeddings_BLd.device, non_blocking=True),
        document.tokens_T[first_token : trajectory.end],
        plans,
    )
