"""Inference: from a trained network to scores that the focus allocator can act on.

Shapes: B snapshots, N entries (padded).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price
from mctrace.datasets.batches.context_tensors import Context, unlabelled_batch
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.device import device_of
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import budget_masses


def score(network: LensNet, batch: Batch, *, signed: bool) -> Tensor:
    """Scores [B, N] of a batch, labelled or not, on the network's device, without dropout.

    Signed scores are masked to 0 in illegal directions; values of detail (`signed` False) stay as they are.
    """
    with evaluation_mode(network):
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
    """Signed scores [N] of each working context, on the CPU, in score units.

    A context is a LOD map and its document's embeddings; neither store nor labels are needed.

    Args:
        signed: the network's own scores are signed; illegal directions are masked. Otherwise the network
            gives values of detail, and the shadow price is subtracted (`subtract_shadow_price`).
        rebalanced: scale the heavier of expansion and collapse mass down to the lighter (`rebalance`);
            signed networks only.
        budget: positions that each context may take, for the shadow price; its own size unless given.
        protected_tails: tokens at the end of each context that never collapse; 0 unless given.
    """
    scores = raw_scores(network, contexts, signed=signed, rebalanced=rebalanced)
    if signed:
        return scores
    tails = [0] * len(contexts) if protected_tails is None else protected_tails
    return [
        subtract_shadow_price(values_N, context.lod_map, budget, tail)
        for values_N, context, tail in zip(scores, contexts, tails, strict=True)
    ]


def raw_scores(
    network: LensNet, contexts: Sequence[Context], *, signed: bool, rebalanced: bool = False
) -> list[Tensor]:
    """Signed scores, or values of detail without a price, [N] of each context's nodes, on the CPU."""
    batch = unlabelled_batch(contexts).to(device_of(network))
    scores_BN = score(network, batch, signed=signed)
    if signed and rebalanced:
        scores_BN = rebalance(scores_BN, batch)
    lengths = batch.entry_mask.sum(dim=1).tolist()
    return [row[:length].float().cpu() for row, length in zip(scores_BN, lengths, strict=True)]


def subtract_shadow_price(
    values_N: Tensor, lod_map: LODMap, budget: int | None, protected_tail: int
) -> Tensor:
    """Values of detail [N] minus the shadow price of the positions that an action takes or frees.

    The price balances all legal actions for a working context of `budget` positions (None: its current size).
    Every entry pays as the dearest action does; `Scorer.candidates` prices each action.
    """
    room = 0 if budget is None else budget - lod_map.num_entries
    candidates = candidates_of(lod_map, protected_tail, values_N.double().numpy())
    return values_N - shadow_price(candidates, room)


def mask_illegal(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Scores [B, N] with illegal directions set to 0: tokens cannot expand, `max_level` gists not collapse.

    Source: docs/specification/inference.md#masking. Padding is 0 too. Where blocks may be absent, those are
    the coarsest, and `max_level` gists can be dropped.
    """
    illegal_BN = (
        ~batch.entry_mask
        | ((batch.levels == 0) & (scores_BN > 0))
        | ((batch.levels == batch.coarsest) & (scores_BN < 0))
    )
    return scores_BN.masked_fill(illegal_BN, 0.0)


def rebalance(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Masked scores [B, N] with the heavier of each snapshot's two masses scaled down to the lighter.

    Source: docs/specification/inference.md#rebalancing. A snapshot with scores of one sign only becomes all
    zeros. Apply `mask_illegal` first.
    """
    expansion_B, collapse_B = budget_masses(scores_BN, batch)
    lighter_B = torch.minimum(expansion_B, collapse_B)
    up_B1 = _ratio(lighter_B, expansion_B).unsqueeze(1)
    down_B1 = _ratio(lighter_B, collapse_B).unsqueeze(1)
    return torch.where(scores_BN > 0, scores_BN * up_B1, scores_BN * down_B1)


def _ratio(numerator_B: Tensor, denominator_B: Tensor) -> Tensor:
    return numerator_B / torch.where(denominator_B > 0, denominator_B, torch.ones_like(denominator_B))


@contextmanager
def evaluation_mode(network: LensNet) -> Iterator[None]:
    """Context without gradients and dropout; restores the network's mode on exit."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)
