"""Training and validation loss of a GistNet: substitutability over a step's windows.

The frozen model's backward pass runs once per student and keeps only the gradient at the gists, so memory
holds one student's activations however many windows and students a step has. The GistNet's own backward pass
follows once per step, inside the common optimisation loop.

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
    """Loss function for the optimisation loop: a scalar with the step's gradient, and the numbers to report.

    The scalar is sum(gists * gradient at the gists). Its value has no meaning; its gradient with respect to
    the weights is that of `loss`: the mean over students of their mean substitution loss (nats per token)
    plus the weighted neighbour term.
    """

    def loss_fn(windows: Sequence[TrainingWindow]) -> tuple[Tensor, Mapping[str, float]]:
        num_students = sum(len(window.lod_maps) for window in windows)
        surrogate, matched, apart = torch.zeros(()), 0.0, 0.0
        for window in windows:
            # A copy: `embed` may return tensors made in inference mode.
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
    """Each student's mean loss, and the gradient of their sum at each level's gists [M, d] (None: unused)."""
    teacher_TV = teacher_logits(model, embeddings[0])
    leaves = [gists_Md.detach().requires_grad_() for gists_Md in embeddings[1:]]
    losses = []
    for lod_map in window.lod_maps:
        loss = _student_loss(model, [embeddings[0], *leaves], teacher_TV, window, lod_map, objective)
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
    """`loss`: the mean over all students; `L_level<l>`: the mean of those whose coarsest gist has level l."""
    by_level: dict[int, list[float]] = {}
    for window in windows:
        embeddings = build_tree(gistnet, model.embed(window.tokens_T), tree)
        teacher_TV = teacher_logits(model, embeddings[0])
        for lod_map in window.lod_maps:
            loss = _student_loss(model, embeddings, teacher_TV, window, lod_map, objective)
            by_level.setdefault(int(lod_map.levels.max()), []).append(loss.item())
    all_losses = [loss for losses in by_level.values() for loss in losses]
    means = {f"L_level{level}": sum(losses) / len(losses) for level, losses in sorted(by_level.items())}
    return {"loss": sum(all_losses) / len(all_losses), **means}


def _student_loss(
    model: FrozenModel,
    embeddings: Sequence[Tensor],
    teacher_TV: Tensor,
    window: TrainingWindow,
    lod_map: LODMap,
    objective: GistObjectiveConfig,
) -> Tensor:
    reads = predicted_after_first_gist(lod_map, window.first_scored)
    logits_SV = student_logits(model, embeddings, lod_map, reads)
    token_S = reads.token_S.to(logits_SV.device)
    targets_S = window.tokens_T.to(logits_SV.device)[token_S]
    return substitution_loss(logits_SV, teacher_TV[token_S - 1], targets_S, objective.match).mean()
