"""Inference: from a trained network to scores that the focus allocator can act on.

Shapes: B snapshots, N entries (padded).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price
from mctrace.datasets.batches.context_tensors import Context, unlabelled_batch
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.device import device_of
from mctrace.train.networks.focus import Focus, Scores, signed_scores
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import budget_masses

Price = Literal["learned", "searched"]
"""the network's own price, or the shadow price of its values"""


def score(network: LensNet, batch: Batch, *, signed: bool) -> Tensor:
    """Scores [B, N] of a batch, labelled or not, on the network's device, without dropout.

    Signed scores are masked to 0 in illegal directions; those of a network with a price are signed, at the
    context's own size. Values of detail (`signed` False) stay as they are.
    """
    with evaluation_mode(network):
        batch = batch.to(device_of(network))
        scores: Scores = network(batch)
        if isinstance(scores, Focus):
            return signed_scores(scores, batch)
        return mask_illegal(scores, batch) if signed else scores


def score_contexts(
    network: LensNet,
    contexts: Sequence[Context],
    *,
    signed: bool,
    rebalanced: bool = False,
    budget: int | None = None,
    price: Price = "learned",
) -> list[Tensor]:
    """Signed scores [N] of each working context, on the CPU, in score units.

    A context is a LOD map and its document's embeddings; neither store nor labels are needed.

    Args:
        signed: the network's own scores are signed; illegal directions are masked. Otherwise the network
            gives values of detail, and the shadow price is subtracted (`subtract_shadow_price`).
        rebalanced: scale the heavier of expansion and collapse mass down to the lighter (`rebalance`);
            signed scores only.
        budget: positions that each context may take, for the price; its own size unless given.
        price: of a network with a price head, its own price or the one searched for among its values.
    """
    batch = unlabelled_batch(contexts).to(device_of(network))
    rooms = [0 if budget is None else budget - context.lod_map.num_entries for context in contexts]
    with evaluation_mode(network):
        found: Scores = network(batch, torch.tensor(rooms, device=batch.levels.device)[:, None])
    if isinstance(found, Focus):
        if price == "searched":
            found = search_price(found, contexts, rooms)
        scores_BN = signed_scores(found, batch)
    else:
        scores_BN = mask_illegal(found, batch) if signed else found
    is_signed = signed or isinstance(found, Focus)
    if is_signed and rebalanced:
        scores_BN = rebalance(scores_BN, batch)
    lengths = batch.entry_mask.sum(dim=1).tolist()
    scores = [row[:length].float().cpu() for row, length in zip(scores_BN, lengths, strict=True)]
    if is_signed:
        return scores
    return [
        subtract_shadow_price(values_N, context.lod_map, room, context.protected_tail)
        for values_N, context, room in zip(scores, contexts, rooms, strict=True)
    ]


def search_price(focus: Focus, contexts: Sequence[Context], rooms: Sequence[int]) -> Focus:
    """The same values with the shadow price of each context in place of the network's own."""
    prices = []
    for row, (context, room) in enumerate(zip(contexts, rooms, strict=True)):
        lod_map, tail = context.lod_map, context.protected_tail
        expand_N, collapse_N = (
            values_BN[row, : lod_map.num_entries].double().cpu().numpy()
            for values_BN in (focus.expand_BN, focus.collapse_BN)
        )
        candidates = candidates_of(lod_map, tail, expand_N)
        collapses = candidates_of(lod_map, tail, collapse_N)
        score_A = np.where(candidates.is_expand_A, candidates.score_A, collapses.score_A)
        positions = lod_map.tree.block_size - 1
        prices.append(shadow_price(replace(candidates, score_A=score_A), room, positions) / positions)
    return replace(focus, price_BR=focus.price_BR.new_tensor(prices)[:, None])


def subtract_shadow_price(values_N: Tensor, lod_map: LODMap, room: int, protected_tail: int) -> Tensor:
    """Values of detail [N] minus the shadow price of the K - 1 positions that an action takes or frees.

    The price balances all legal actions for a working context that may grow by `room` positions.
    """
    candidates = candidates_of(lod_map, protected_tail, values_N.double().numpy())
    return values_N - shadow_price(candidates, room, lod_map.tree.block_size - 1)


def mask_illegal(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Scores [B, N] with illegal directions set to 0: tokens cannot expand, `max_level` gists not collapse.

    Source: docs/specification/inference.md#masking. Padding is 0 too.
    """
    illegal_BN = (
        ~batch.entry_mask
        | ((batch.levels == 0) & (scores_BN > 0))
        | ((batch.levels == batch.max_level) & (scores_BN < 0))
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
