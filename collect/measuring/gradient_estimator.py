"""The gradient estimator: first-order effects of all edits of a context from one forward and backward pass.

The baseline runs once; the entries that edits would insert run beside it as observers, which see what they
would see in their counterfactual and are seen by nobody, so that their keys and values are those of the
edited context. The backward pass of the loss then gives every edit's first-order effect through every
attention layer (`attention_edits.py`). Left out are effects of second order, and the first token after an
edit that ends right before it, which is read at an entry that the edit takes away.

Losses are differentiated by stretches (`gradient_passes.py`); an effect is the mean over each stretch's
tokens from the edit on, repeated over them: tokens before it lose nothing.

Shapes: N entries, M observers, H tokens whose loss is read, C stretches, E edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.attention_edits import ObservedEdits
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.collect.measuring.evaluator import Baseline, Batching, check_fits
from mctrace.collect.planning.edits import Edit
from mctrace.collect.planning.gradient_passes import STRETCHES_AT_ONCE, stretch_lengths, stretches_of
from mctrace.context.lod_map import Entries
from mctrace.context.trajectory import Trajectory
from mctrace.context.working_context import gather_embeddings
from mctrace.errors import ModelError


@dataclass(frozen=True)
class GradientEffects:
    """The baseline, and per edit in the given order `delta_nll_H` in nats per token from `first_token` on."""

    baseline: Baseline
    deltas: tuple[Tensor, ...]


def estimate_edits(
    model: EvaluatedModel,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    batching: Batching,
    *,
    segment: int | None = None,
) -> GradientEffects:
    """First-order effect of every edit, whatever it takes away or puts in.

    Raises ModelError for an architecture whose layers it cannot differentiate, in float16, whose gradients
    underflow, and when the context does not fit into memory.
    """
    check_fits(model, trajectory)
    order = sorted(range(len(edits)), key=lambda i: (edits[i].end_entry, edits[i].first_entry))
    try:
        with torch.inference_mode(False):
            baseline, sums_EC = _estimate(
                model, document, trajectory, [edits[i] for i in order], batching, segment
            )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "out of memory on a context's gradients: use a smaller collect.window, a smaller model or "
            "model.dtype, or a device with more memory"
        ) from error
    deltas: list[Tensor] = [sums_EC] * len(edits)
    for i, sum_C in zip(order, sums_EC, strict=True):
        lengths = stretch_lengths(trajectory, edits[i], segment)
        length_C = torch.tensor(lengths)
        mean_C = sum_C[len(sum_C) - len(lengths) :].cpu() / length_C
        deltas[i] = torch.repeat_interleave(mean_C.float(), length_C)
    return GradientEffects(baseline, tuple(deltas))


def _estimate(
    model: EvaluatedModel,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    batching: Batching,
    segment: int | None,
) -> tuple[Baseline, Tensor]:
    """Baseline, and effect [E, C] on each stretch's loss in nats, of edits that come by their end."""
    entries = trajectory.entries
    tape = model.taped_pass(
        *_inputs(model, document, trajectory, entries.sliced(slice(0, len(entries) - 1))),
        document.tokens_T[trajectory.first_cursor : trajectory.end],
    )
    observed = ObservedEdits(
        tuple(edit.first_entry for edit in edits),
        tuple(edit.end_entry for edit in edits),
        tuple(len(edit.replacement) for edit in edits),
    )
    stretches = stretches_of(trajectory, segment)
    observers = _observers(edits)
    tensors = tape.observed(*_inputs(model, document, trajectory, observers), observed, batching.tokens)
    effects = [
        tape.effects(tensors, observed, stretches[i : i + STRETCHES_AT_ONCE])
        for i in range(0, len(stretches), STRETCHES_AT_ONCE)
    ]
    return Baseline(tape.nll_H, tape.cache), torch.cat(effects, 1)


def _observers(edits: Sequence[Edit]) -> Entries:
    empty = np.zeros(0, dtype=np.int64)
    return Entries(empty, empty, empty, empty).followed_by(*(edit.replacement for edit in edits))


def _inputs(
    model: EvaluatedModel, document: DocumentTree, trajectory: Trajectory, entries: Entries
) -> tuple[Tensor, Tensor]:
    position = torch.from_numpy(entries.position_N(trajectory.head.start))
    return gather_embeddings(entries, document.embeddings), position.to(document.embeddings[0].device)
