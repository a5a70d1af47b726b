"""The counterfactual evaluator: how the loss on the next tokens changes when exactly one entry is edited.

Tensors in, tensors out; no files, no clock, no Ray. The baseline runs once and leaves its keys and values;
each action then runs [edit ... last cursor + H) on top of the cache cropped at the edit, and its effect is

    delta_nll[t] = nll_after[t] - nll_before[t]        for t in [first_token, last cursor + H)

in nats per token, raw and signed (DESIGN section 4). The slow definition it must equal is in `naive.py`.

Shapes: T tokens of the document, N entries, d embedding width, H tokens whose loss is read, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.collect.passes import ForwardPass, action_pass, baseline_pass
from mctrace.context.actions import Action
from mctrace.context.errors import ModelError
from mctrace.context.frozen_model import FrozenModel, KVCache
from mctrace.context.trajectory import Trajectory
from mctrace.context.working_context import gather_embeddings

EVALUATOR_VERSION = 1
"""Part of every label's identity: raise it when the same inputs would give other numbers."""


@dataclass(frozen=True)
class DocumentTree:
    """A document as the model sees it: token ids [T] and, per level, its nodes' embeddings [num_nodes, d]."""

    tokens_T: Tensor
    embeddings: Sequence[Tensor]


@dataclass(frozen=True)
class Baseline:
    """Per-token NLL [H] of the unedited context from the first cursor on, and the cache it left behind."""

    nll_H: Tensor
    cache: KVCache


@dataclass(frozen=True)
class Effect:
    """What was measured for one action: `delta_nll_H` nats per token, for tokens from `first_token` on."""

    action: Action
    first_token: int
    delta_nll_H: Tensor


def check_fits(model: FrozenModel, trajectory: Trajectory) -> None:
    """Raises ModelError when the context spans more positions than the base model has."""
    if trajectory.num_positions > model.max_positions:
        raise ModelError(
            f"a context from token {trajectory.head.start} to {trajectory.end} spans "
            f"{trajectory.num_positions} positions, the base model has {model.max_positions}: "
            "use a later start (a smaller collect.window)"
        )


def measure_baseline(model: FrozenModel, document: DocumentTree, trajectory: Trajectory) -> Baseline:
    """The loss of the context as it is, at every token any cursor's horizon reaches."""
    check_fits(model, trajectory)
    nll_H, cache = _run(model, document, trajectory.head.start, baseline_pass(trajectory), None)
    return Baseline(nll_H, cache)


def measure_effects(
    model: FrozenModel,
    document: DocumentTree,
    trajectory: Trajectory,
    actions: Sequence[Action],
    baseline: Baseline,
) -> Iterator[Effect]:
    """One effect per action, in the given order, each from a single pass on the baseline's cropped cache."""
    for action in actions:
        forward_pass = action_pass(trajectory, action)
        prefix = model.crop(baseline.cache, forward_pass.crop)
        nll_after_H, _ = _run(model, document, trajectory.head.start, forward_pass, prefix)
        nll_before_H = baseline.nll_H[forward_pass.first_token - trajectory.first_cursor :]
        yield Effect(action, forward_pass.first_token, nll_after_H - nll_before_H)


@torch.inference_mode()
def _run(
    model: FrozenModel, document: DocumentTree, start: int, forward_pass: ForwardPass, prefix: KVCache | None
) -> tuple[Tensor, KVCache]:
    run = slice(forward_pass.crop, forward_pass.last_run)
    entries = forward_pass.entries.sliced(run)
    embeddings_ND = gather_embeddings(entries, document.embeddings)
    position_N = torch.from_numpy(entries.position_N(start)).to(embeddings_ND.device)
    first_read = forward_pass.first_read - forward_pass.crop
    keep_H = torch.arange(first_read, len(entries), device=embeddings_ND.device)
    logits_HV, cache = model.logits(embeddings_ND, position_N, keep_H, prefix)
    targets_H = document.tokens_T[forward_pass.first_token : forward_pass.end]
    return token_nll(logits_HV, targets_H), cache


def token_nll(logits_HV: Tensor, targets_H: Tensor) -> Tensor:
    """Negative log-likelihood [H] in nats, in float32 whatever the model's dtype."""
    return torch.nn.functional.cross_entropy(
        logits_HV.float(), targets_H.to(logits_HV.device), reduction="none"
    )
