"""Substitutability loss: change of the frozen model's predictions when gists replace their spans.

The model runs on a window twice: in full (the teacher), and with some nodes replaced by gists (the student).
The loss is the mean KL(teacher || student) in nats over the tokens after the first gist that are not replaced
themselves. Gradients flow through the frozen model into the gists only.

Shapes: T tokens of the window, N entries, S predicted tokens, V vocabulary, d embedding width, M nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mctrace.base_model.protocol import FrozenModel
from mctrace.context.lod_map import LODMap
from mctrace.context.working_context import gather_embeddings
from mctrace.gists.config import Match

_CHUNK = {"cpu": 64, "cuda": 2048}
"""rows of logits whose softmax is held in float32 at once, by kind of device; 64 fit a CPU's cache"""


@dataclass(frozen=True)
class PredictedTokens:
    """Tokens of a working context whose predictions count: `token_S` (offsets in the window), each predicted
    at the entry `entry_S` before it."""

    entry_S: Tensor
    token_S: Tensor


def predicted_from(lod_map: LODMap, first_token: int) -> PredictedTokens:
    """All tokens from `first_token` on that are entries themselves and have an entry before them."""
    entries = lod_map.entries
    is_read = (entries.level_N == 0) & (entries.first_token_N >= max(first_token, 1))
    is_read[0] = False
    entry_S = np.flatnonzero(is_read)
    return PredictedTokens(torch.from_numpy(entry_S - 1), torch.from_numpy(entries.first_token_N[entry_S]))


def predicted_after_first_gist(lod_map: LODMap, first_token: int = 0) -> PredictedTokens:
    """The tokens from `first_token` on whose prediction a map can change: those after its first gist."""
    gists = np.flatnonzero(lod_map.entries.level_N > 0)
    first_gist_end = int(lod_map.entries.end_token_N[gists[0]]) if len(gists) else 0
    return predicted_from(lod_map, max(first_token, first_gist_end))


def student_logits(
    model: FrozenModel, tree_embeddings: Sequence[Tensor], lod_map: LODMap, reads: PredictedTokens
) -> Tensor:
    """Logits [S, V] of the frozen model on the map's entries, differentiable in `tree_embeddings`."""
    entries = lod_map.entries
    embeddings_ND = gather_embeddings(entries, tree_embeddings)
    device = embeddings_ND.device
    position_N = torch.from_numpy(entries.position_N(lod_map.start)).to(device)
    return model.logits(embeddings_ND, position_N, reads.entry_S.to(device))


@torch.no_grad()
def teacher_logits(model: FrozenModel, token_embeddings_Td: Tensor) -> Tensor:
    """Logits [T, V] of the window in full; row t predicts token t + 1."""
    position_T = torch.arange(len(token_embeddings_Td), device=token_embeddings_Td.device)
    return model.logits(token_embeddings_Td, position_T, position_T)


def substitution_loss(student_SV: Tensor, teacher_SV: Tensor, targets_S: Tensor, match: Match) -> Tensor:
    """Per-token loss [S] in nats: KL(teacher || student), or the student's own NLL of the targets."""
    if match == "nll":
        return functional.cross_entropy(student_SV.float(), targets_S, reduction="none")
    kl_S: Tensor = _TeacherKL.apply(student_SV, teacher_SV)  # type: ignore[no-untyped-call]
    return kl_S


class _TeacherKL(torch.autograd.Function):
    """KL(teacher || student) per row in float32; its gradient, p_student - p_teacher, is computed in forward.

    Only one chunk of rows is held in float32, and autograd keeps one tensor of the logits' dtype instead of
    the five of a composed log-softmax.
    """

    @staticmethod
    def forward(ctx: Any, student_SV: Tensor, teacher_SV: Tensor) -> Tensor:
        kl_S = student_SV.new_empty(len(student_SV), dtype=torch.float32)
        gradient_SV = torch.empty_like(student_SV)
        chunk = _CHUNK.get(student_SV.device.type, _CHUNK["cpu"])
        for first in range(0, len(student_SV), chunk):
            rows = slice(first, first + chunk)
            student = student_SV[rows].float().log_softmax(dim=-1)
            teacher = teacher_SV[rows].float().log_softmax(dim=-1)
            teacher_probability = teacher.exp()
            kl_S[rows] = (teacher_probability * (teacher - student)).sum(dim=-1)
            gradient_SV[rows] = student.exp_().sub_(teacher_probability).to(gradient_SV.dtype)
        ctx.save_for_backward(gradient_SV)
        return kl_S

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient_SV,) = ctx.saved_tensors
        return gradient_SV * grad_outputs[0][:, None].to(gradient_SV.dtype), None


def neighbour_loss(gists_Md: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin - cosine distance) over neighbouring gists [M, d]; 0 if `margin` apart."""
    if len(gists_Md) < 2:
        return gists_Md.new_zeros(())
    distance = 1 - functional.cosine_similarity(gists_Md[1:].float(), gists_Md[:-1].float(), dim=-1)
    return functional.relu(margin - distance).mean()
