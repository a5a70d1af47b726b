"""Training a GistNet on substitutability: windows in, telemetry and weights out.

The frozen model's backward pass runs once per student and leaves only the gradient at the gists, so that
memory holds one student's activations however many windows and patterns a step has; the GistNet's own
backward pass then follows, once per step, inside the common optimisation loop.

Shapes: M gists, d embedding width, S predicted tokens, T tokens of a window.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mctrace.base_model.protocol import FrozenModel
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.gists.config import GistObjectiveConfig
from mctrace.gists.network.gistnet import GistNet, build_tree, differentiable_tree
from mctrace.gists.training.substitutability import (
    neighbour_loss,
    predicted_after_first_gist,
    student_logits,
    substitution_loss,
    teacher_logits,
)
from mctrace.gists.training.windows import TrainingWindow


def gist_loss(
    gistnet: GistNet, model: FrozenModel, tree: TreeShape, objective: GistObjectiveConfig
) -> Callable[[Sequence[TrainingWindow]], tuple[Tensor, Mapping[str, float]]]:
    """The `loss_fn` that `optimise` wants: a scalar with the step's gradient, and the numbers to report.

    The scalar is sum(gists * gradient at the gists): its value means nothing, its gradient with respect to
    the weights is that of `loss`, the mean over students of their mean substitution loss (nats per token)
    plus the weighted neighbour term.
    """

    def loss_fn(windows: Sequence[TrainingWindow]) -> tuple[Tensor, Mapping[str, float]]:
        num_students = sum(len(window.patterns) for window in windows)
        surrogate, matched, apart = torch.zeros(()), 0.0, 0.0
        for window in windows:
            # A copy: what `embed` returns may have been made without a place for gradients.
            embeddings = differentiable_tree(gistnet, model.embed(window.tokens_T).clone(), tree)
            losses, gradients = backward_to_gists(model, embeddings, window, objective)
            matched += sum(losses) / num_students
            for gists_Md, gradient_Md in zip(embeddings[1:], gradients, strict=True):
                if gradient_Md is not None:
                    surrogate = (
                        surrogate + (gists_Md.float() * gradient_Md.float()).sum().cpu() / num_students
                    )
            if objective.neighbour_weight:
                term = neighbour_loss(embeddings[1], objective.neighbour_margin).cpu() / len(windows)
                surrogate = surrogate + objective.neighbour_weight * term
                apart += term.item()
        total = matched + objective.neighbour_weight * apart
        return surrogate, {"loss": total, f"L_{objective.match}": matched, "L_neighbour": apart}

    return loss_fn


def backward_to_gists(
    model: FrozenModel, embeddings: Sequence[Tensor], window: TrainingWindow, objective: GistObjectiveConfig
) -> tuple[list[float], list[Tensor | None]]:
    """Each pattern's mean loss, and the gradient of their sum at each level's gists [M, d] (None: unused)."""
    teacher_TV = teacher_logits(model, embeddings[0])
    leaves = [gists_Md.detach().requires_grad_() for gists_Md in embeddings[1:]]
    losses = []
    for pattern in window.patterns:
        loss = _pattern_loss(model, [embeddings[0], *leaves], teacher_TV, window, pattern, objective)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses.append(loss.item())
    return losses, [leaf.grad for leaf in leaves]


@torch.no_grad()
def validation_loss(
    gistnet: GistNet,
    model: FrozenModel,
    tree: TreeShape,
    objective: GistObjectiveConfig,
    windows: Sequence[TrainingWindow],
) -> dict[str, float]:
    """`loss`, the mean over all patterns, and the mean of those whose coarsest gist is of each level."""
    by_level: dict[int, list[float]] = {}
    for window in windows:
        embeddings = build_tree(gistnet, model.embed(window.tokens_T), tree)
        teacher_TV = teacher_logits(model, embeddings[0])
        for pattern in window.patterns:
            loss = _pattern_loss(model, embeddings, teacher_TV, window, pattern, objective)
            by_level.setdefault(int(pattern.levels.max()), []).append(loss.item())
    everything = [loss for losses in by_level.values() for loss in losses]
    means = {f"L_level{level}": sum(losses) / len(losses) for level, losses in sorted(by_level.items())}
    return {"loss": sum(everything) / len(everything), **means}


def _pattern_loss(
    model: FrozenModel,
    embeddings: Sequence[Tensor],
    teacher_TV: Tensor,
    window: TrainingWindow,
    pattern: LODMap,
    objective: GistObjectiveConfig,
) -> Tensor:
    reads = predicted_after_first_gist(pattern, window.first_scored)
    logits_SV = student_logits(model, embeddings, pattern, reads)
    token_S = reads.token_S.to(logits_SV.device)
    targets_S = window.tokens_T.to(logits_SV.device)[token_S]
    return substitution_loss(logits_SV, teacher_TV[token_S - 1], targets_S, objective.match).mean()
