"""The question of `attribute` as somebody asks it with captum: feature ablation over a mask of the parts."""

from collections.abc import Sequence

import torch
from captum.attr import FeatureAblation
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

Stretch = tuple[int, int]
"""tokens [first, end) whose loss counts"""


def ablated_by_captum(
    network: PreTrainedModel, tokens_T: Tensor, units: Sequence[tuple[int, int]], stretch: Stretch
) -> Tensor:
    """What each part [U] is worth for one stretch of tokens, in nats: positive where it helps.

    The forward function takes the tokens whose part is there, at their own positions, through the model as
    transformers runs it. The first token belongs to no part, so that it stays.
    """
    return _ablated(network, tokens_T, units, [stretch])[0]


def ablated_by_hand(
    network: PreTrainedModel, tokens_T: Tensor, units: Sequence[tuple[int, int]], stretches: Sequence[Stretch]
) -> Tensor:
    """The same [R, U] for R stretches by a forward function that returns them all from one pass."""
    return _ablated(network, tokens_T, units, stretches)


def _ablated(
    network: PreTrainedModel, tokens_T: Tensor, units: Sequence[tuple[int, int]], stretches: Sequence[Stretch]
) -> Tensor:
    end = max(stretch_end for _, stretch_end in stretches)
    unit_T = torch.full((end,), -1)
    for index, (unit_first, unit_end) in enumerate(units):
        unit_T[unit_first:unit_end] = index
    unit_T[0] = -1

    @torch.inference_mode()
    def log_probabilities(mask_1U: Tensor) -> Tensor:
        kept_N = torch.nonzero((unit_T < 0) | (mask_1U[0][unit_T.clamp(min=0)] > 0)).flatten()
        read_M = torch.nonzero(kept_N >= min(first for first, _ in stretches)).flatten()
        logits_MV = network(
            input_ids=tokens_T[kept_N][None],
            position_ids=kept_N[None],
            attention_mask=torch.ones(1, len(kept_N), dtype=torch.long),
            use_cache=False,
            logits_to_keep=read_M - 1,
        ).logits[0]
        losses_M = cross_entropy(logits_MV.float(), tokens_T[kept_N[read_M]], reduction="none")
        place_M = kept_N[read_M]
        return -torch.stack([losses_M[(place_M >= a) & (place_M < b)].sum() for a, b in stretches])

    worth: Tensor = FeatureAblation(log_probabilities).attribute(torch.ones(1, len(units)), baselines=0.0)
    return worth.reshape(len(stretches), len(units))
