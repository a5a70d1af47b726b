"""The gradient estimator: first-order effects of all edits of a context from one forward and one backward pass.

The baseline runs once; the entries that edits would insert run beside it as observers, which see what they
would see in their counterfactual and are seen by nobody, so that their keys and values are those of the edited
context. The backward pass of the loss then gives every edit's first-order effect through every attention layer
(`attention_edits.py`). Effects through later layers' own changes of attention are left out, and so is the first
token after an edit that ends right before it, which is read at an entry that the edit takes away.

Losses are differentiated by stretches, cut wherever a cursor's horizon begins or ends and, if asked for, every
`segment` tokens after the first cursor; an effect is then the mean of each stretch, repeated over its tokens.

Shapes: N entries, M observers, H tokens whose loss is read, C stretches, E edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mctrace.base_model.attention_edits import ObservedEdits
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.collect.measuring.evaluator import Baseline, Batching, check_fits
from mctrace.collect.planning.edits import Edit
from mctrace.context.lod_map import Entries
from mctrace.context.trajectory import Trajectory
from mctrace.context.working_context import gather_embeddings
from mctrace.errors import ModelError

_STRETCHES_AT_ONCE = 8
"""gradients in memory together"""


@dataclass(frozen=True)
class GradientEffects:
    """The baseline, and per edit in the given order `delta_nll_H` in nats per token from its `first_token` on."""

    baseline: Baseline
    deltas: tuple[Tensor, ...]


def stretches_of(trajectory: Trajectory, segment: int | None = None) -> list[tuple[int, int]]:
    """Stretches [first, end) of the tokens from the first cursor on whose mean effect the estimator gives."""
    first, end, horizon = trajectory.first_cursor, trajectory.end, trajectory.horizon
    cuts = {cursor + lag - first for cursor in trajectory.cursors for lag in (0, horizon)}
    if segment is not None:
        cuts |= set(range(0, end - first, segment))
    bounds = sorted(cuts)
    return list(zip(bounds, bounds[1:], strict=False))


def estimate_edits(
    model: FrozenCausalLM,
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
    if model.network.dtype == torch.float16:
        raise ModelError(
            "gradients underflow in float16: use model.dtype float32 or bfloat16, or collect.estimator exact"
        )
    order = sorted(range(len(edits)), key=lambda i: (edits[i].end_entry, edits[i].first_entry))
    try:
        with torch.inference_mode(False):
            baseline, means_EC = _estimate(
                model, document, trajectory, [edits[i] for i in order], batching, segment
            )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "out of memory on a context's gradients: use a smaller collect.window, a smaller model or "
            "model.dtype, or a device with more memory"
        ) from error
    width_C = torch.tensor([end - first for first, end in stretches_of(trajectory, segment)])
    deltas: list[Tensor] = [means_EC] * len(edits)
    for i, mean_C in zip(order, means_EC, strict=True):
        first = edits[i].first_token - trajectory.first_cursor
        deltas[i] = torch.repeat_interleave(mean_C.float().cpu(), width_C)[first:]
    return GradientEffects(baseline, tuple(deltas))


def _estimate(
    model: FrozenCausalLM,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    batching: Batching,
    segment: int | None,
) -> tuple[Baseline, Tensor]:
    """Baseline, and mean effect [E, C] per token of each stretch, of edits that come by their end."""
    entries = trajectory.context.entries
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
        tape.effects(tensors, observed, stretches[i : i + _STRETCHES_AT_ONCE])
        for i in range(0, len(stretches), _STRETCHES_AT_ONCE)
    ]
    width_C = torch.tensor([end - first for first, end in stretches], device=effects[0].device)
    return Baseline(tape.nll_H, tape.cache), torch.cat(effects, 1) / width_C


def _observers(edits: Sequence[Edit]) -> Entries:
    empty = np.zeros(0, dtype=np.int64)
    return Entries(empty, empty, empty, empty).followed_by(*(edit.replacement for edit in edits))


def _inputs(
    model: FrozenCausalLM, document: DocumentTree, trajectory: Trajectory, entries: Entries
) -> tuple[Tensor, Tensor]:
    position = torch.from_numpy(entries.position_N(trajectory.head.start))
    return gather_embeddings(entries, document.embeddings), position.to(model.device)


def gradient_work(trajectory: Trajectory, edits: Sequence[Edit], segment: int | None = None) -> Work:
    """Work of the base model: the recorded pass, each layer once more, and back for every stretch.

    A backward pass takes as much as a forward one for the entries, which need no weights' gradients, and twice
    as much for the attended pairs, beside the weights that all stretches share.
    """
    num_entries = len(trajectory.context.entries) - 1
    num_observers = sum(len(edit.replacement) for edit in edits)
    stretches = stretches_of(trajectory, segment)
    own_pairs = num_entries * (num_entries + 1) // 2
    observer_pairs = sum(len(edit.replacement) * edit.first_entry for edit in edits)
    seen_pairs = sum(len(edit.replacement) * max(0, num_entries - edit.end_entry) for edit in edits)
    groups = -(-len(stretches) // _STRETCHES_AT_ONCE)
    return Work(
        num_entries * (1 + groups + len(stretches)) + num_observers,
        2 * (trajectory.end - trajectory.first_cursor),
        own_pairs + observer_pairs + (own_pairs + seen_pairs) * (groups + 4 * len(stretches)) // 2,
    )
