"""Baseline scorers that every checkpoint must beat: recency, attention, noise, and the best linear network.

The linear one is solved in closed form, not trained: score = w · [normalised embedding, features] + b with
the w that minimises L_reg plus a ridge, whose strength is chosen on the validation split. Only sums of
products of the data are kept in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.context.tree import Absence
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.errors import InputError
from mctrace.train.networks.lensnet import entry_features, normalised, num_features
from mctrace.train.networks.registry import LinearLensNet
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.label_weights import entry_weights


def recency_scores(batch: Batch) -> Tensor:
    """Scores [B, N] that decrease with age: minus the distance to the cursor as a share of the context."""
    share_BN = batch.distance_to_cursor / batch.context_tokens[:, None].clamp(min=1)
    return torch.where(batch.entry_mask, -share_BN, torch.zeros_like(share_BN))


def attention_scores(batch: Batch) -> Tensor:
    """Scores [B, N] equal to the base model's attention mass on each entry; 0 where it was not recorded."""
    assert batch.entry_attention is not None, "attention mass was not read with the labels"
    return torch.where(batch.entry_mask, batch.entry_attention.nan_to_num(), 0.0)


def noise_scores(batch: Batch, generator: torch.Generator) -> Tensor:
    """Scores [B, N] of standard normal noise."""
    noise_BN = torch.randn(batch.levels.shape, generator=generator)
    return torch.where(batch.entry_mask, noise_BN, torch.zeros_like(noise_BN))


RIDGES = tuple(10.0**exponent for exponent in range(-6, 3))
"""ridge strengths to choose from, per unit of total weight; inputs have a variance of about 1"""


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over the measured entries of a split, float64; F inputs, the last of them 1."""

    absence: Absence
    products_FF: Tensor
    targets_F: Tensor
    target_square: Tensor
    weight: Tensor

    def loss(self, coefficients_F: Tensor) -> float:
        """L_reg of these coefficients."""
        squares = (
            coefficients_F @ self.products_FF @ coefficients_F
            - 2 * coefficients_F @ self.targets_F
            + self.target_square
        )
        return float(squares / self.weight)


def fit_ridge(
    train: Iterable[Batch], validation: Iterable[Batch], objective: ObjectiveConfig
) -> LinearLensNet:
    """The linear network with the lowest validation L_reg over `RIDGES`, in evaluation mode.

    Raises InputError when a split has no measured entry.
    """
    seen, held_out = _sums(train, objective), _sums(validation, objective)
    penalised_F = torch.ones(len(seen.targets_F), dtype=torch.float64)
    penalised_F[-1] = 0  # the bias is free
    solutions = [
        torch.linalg.solve(seen.products_FF + ridge * seen.weight * torch.diag(penalised_F), seen.targets_F)
        for ridge in RIDGES
    ]
    best_F = min(solutions, key=held_out.loss)
    network = LinearLensNet(len(best_F) - 1 - num_features(seen.absence), absence=seen.absence)
    with torch.no_grad():
        network.score.weight.copy_(best_F[None, :-1])
        network.score.bias.copy_(best_F[-1:])
    return network.eval()


def _sums(batches: Iterable[Batch], objective: ObjectiveConfig) -> _Sums:
    total: _Sums | None = None
    for batch in batches:
        found = _sums_of(batch, objective)
        total = found if total is None else _added(total, found)
    if total is None or not total.weight:
        raise InputError("no entry of the split was measured: a linear network cannot be fitted")
    return total


def _sums_of(batch: Batch, objective: ObjectiveConfig) -> _Sums:
    weights_BN = entry_weights(batch, objective)
    measured_BN = weights_BN > 0
    embeddings_Md = normalised(batch.context_embeddings[measured_BN])
    features_MF = entry_features(batch)[measured_BN]
    ones_M1 = torch.ones(len(features_MF), 1)
    inputs_MF = torch.cat([embeddings_Md, features_MF, ones_M1], dim=1).double()
    weights_M, targets_M = weights_BN[measured_BN].double(), batch.target_utilities[measured_BN].double()
    weighted_MF = inputs_MF * weights_M[:, None]
    return _Sums(
        batch.absence,
        weighted_MF.T @ inputs_MF,
        weighted_MF.T @ targets_M,
        (weights_M * targets_M**2).sum(),
        weights_M.sum(),
    )


def _added(one: _Sums, other: _Sums) -> _Sums:
    return _Sums(
        one.absence,
        one.products_FF + other.products_FF,
        one.targets_F + other.targets_F,
        one.target_square + other.target_square,
        one.weight + other.weight,
    )
