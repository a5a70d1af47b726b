"""From a trained network to scores the focus allocator may act on.

Shapes: B snapshots, N entries (padded).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price
from mctrace.datasets.batches.batch import Batch
from mctrace.datasets.batches.contexts import Context, unlabelled_batch
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import budget_masses


def score(network: LensNet, batch: Batch, *, signed: bool) -> Tensor:
    """Scores [B, N] of a batch, labelled or not, on the network's device; without dropout.

    Legal ones where the network's scores are `signed`, else values of detail as they are.
    """
    with evaluating(network):
        batch = batch.to(device_of(network))
        scores_BN: Tensor = network(batch)
        return mask_illegal(scores_BN, batch) if signed else scores_BN


def score_contexts(
    network: LensNet,
    contexts: Sequence[Context],
    *,
    signed: bool,
    rebalanced: bool = False,
    budget: int | None = None,
    protected_tails: Sequence[int] | None = None,
) -> list[Tensor]:
    """Signed scores [N] of each working context of a live runtime, on the CPU, in score units.

    A context is its LOD map and its document's embeddings: no store, no labels. Of a network whose scores are
    `signed` they are legal, and with `rebalanced` expansions and collapses are brought to one mass
    (`rebalance`). Of one that scores values of detail they are `values_less_price`, which balances them.
    `protected_tails` has the tokens of each context that no action touches; 0 unless given.
    """
    batch = unlabelled_batch(contexts).to(device_of(network))
    scores_BN = score(network, batch, signed=signed)
    if signed and rebalanced:
        scores_BN = rebalance(scores_BN, batch)
    lengths = batch.entry_mask.sum(dim=1).tolist()
    scores = [row[:length].float().cpu() for row, length in zip(scores_BN, lengths, strict=True)]
    if signed:
        return scores
    tails = [0] * len(contexts) if protected_tails is None else protected_tails
    return [
        values_less_price(values_N, context.lod_map, budget, tail)
        for values_N, context, tail in zip(scores, contexts, tails, strict=True)
    ]


def values_less_price(values_N: Tensor, lod_map: LODMap, budget: int | None, protected_tail: int) -> Tensor:
    """Values of detail [N] less the shadow price of the K - 1 positions that an action takes or frees.

    Found on the values of all legal actions, for a working context that is to take `budget` positions;
    without one, as many as it does.
    """
    room = 0 if budget is None else budget - lod_map.num_entries
    candidates = candidates_of(lod_map, protected_tail, values_N.double().numpy())
    return values_N - shadow_price(candidates, room, lod_map.tree.block_size - 1)


def mask_illegal(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Scores with every illegal direction set to 0: tokens cannot expand, `max_level` gists cannot collapse.

    Source: docs/specification/inference.md#masking. Padding is 0 too.
    """
    illegal_BN = (
        ~batch.entry_mask
        | ((batch.levels == 0) & (scores_BN > 0))
        | ((batch.levels == batch.max_level) & (scores_BN < 0))
    )
    return scores_BN.masked_fill(illegal_BN, 0.0)


def rebalance(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Legal scores with the heavier of the two masses of each snapshot scaled down to the lighter.

    Source: docs/specification/inference.md#rebalancing. A snapshot that wants only expansions, or
    only collapses, therefore comes out as all zeros. Give it the scores of `mask_illegal`.
    """
    expansion_B, collapse_B = budget_masses(scores_BN, batch)
    lighter_B = torch.minimum(expansion_B, collapse_B)
    up_B1 = _ratio(lighter_B, expansion_B).unsqueeze(1)
    down_B1 = _ratio(lighter_B, collapse_B).unsqueeze(1)
    return torch.where(scores_BN > 0, scores_BN * up_B1, scores_BN * down_B1)


def _ratio(numerator_B: Tensor, denominator_B: Tensor) -> Tensor:
    return numerator_B / torch.where(denominator_B > 0, denominator_B, torch.ones_like(denominator_B))


@contextmanager
def evaluating(network: LensNet) -> Iterator[None]:
    """Without gradients and without dropout; the network's mode is put back afterwards."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def device_of(network: LensNet) -> torch.device:
    return next(network.parameters()).device
