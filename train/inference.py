"""Inference: from a trained network to scores that the focus allocator can act on.

Shapes: B snapshots, N entries (padded).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price, subtract_price
from mctrace.datasets.batches.context_tensors import Context, unlabelled_batch
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.device import device_of
from mctrace.train.networks.config import Price
from mctrace.train.networks.focus import Focus, Scores, signed_scores
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import budget_masses


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
    price: Price = "searched",
) -> list[Tensor]:
    """Signed scores [N] of each working context, on the CPU, in score units.

    A context is a LOD map and its document's embeddings, with the token ids where the network matches words;
    neither store nor labels are needed. Raises InputError where these are missing.

    Args:
        signed: the network's own scores are signed; illegal directions are masked. Otherwise the network
            gives values of detail, and the shadow price is subtracted (`subtract_shadow_price`).
        rebalanced: scale the heavier of expansion and collapse mass down to the lighter (`rebalance`);
            signed scores only.
        budget: positions that each context may take, for the price; its own size unless given.
        price: of a network with a price head, the one searched for among its values or its own price.
    """
    rooms = [0 if budget is None else budget - context.lod_map.num_positions for context in contexts]
    found, batch = _outputs(network, contexts, rooms)
    if isinstance(found, Focus) and price == "searched":
        found = search_price(found, contexts, rooms)
    scores_BN = _of_entries(found, batch, signed=signed, rebalanced=rebalanced)
    lengths = batch.entry_mask.sum(dim=1).tolist()
    scores = [row[:length].float().cpu() for row, length in zip(scores_BN, lengths, strict=True)]
    if signed or isinstance(found, Focus):
        return scores
    return [
        subtract_shadow_price(values_N, context.lod_map, room, context.protected_tail)
        for values_N, context, room in zip(scores, contexts, rooms, strict=True)
    ]


def score_actions(
    network: LensNet,
    context: Context,
    *,
    signed: bool,
    rebalanced: bool = False,
    budget: int,
    price: Price = "searched",
) -> Candidates:
    """The context's legal actions with signed scores, each less the price of its own positions.

    Arguments as of `score_contexts`; only scores of networks trained on a signed target are `rebalanced`.
    """
    lod_map, tail = context.lod_map, context.protected_tail
    room = budget - lod_map.num_positions
    found, batch = _outputs(network, [context], [room])
    if isinstance(found, Focus):
        candidates = _valued_actions(found, 0, context)
        if price == "searched":
            return subtract_price(candidates, room)
        cost_A = float(found.price_BR[0, 0]) * candidates.positions_A
        return replace(candidates, score_A=candidates.score_A - cost_A)
    scores_BN = _of_entries(found, batch, signed=signed, rebalanced=rebalanced and signed)
    candidates = candidates_of(lod_map, tail, scores_BN[0].double().cpu().numpy())
    return candidates if signed else subtract_price(candidates, room)


def _outputs(network: LensNet, contexts: Sequence[Context], rooms: Sequence[int]) -> tuple[Scores, Batch]:
    """What the network gives, and the batch, on its device."""
    batch = unlabelled_batch(contexts, match_words=network.match_words).to(device_of(network))
    with evaluation_mode(network):
        return network(batch, torch.tensor(rooms, device=batch.levels.device)[:, None]), batch


def _of_entries(found: Scores, batch: Batch, *, signed: bool, rebalanced: bool) -> Tensor:
    """Signed, masked scores [B, N]; values of detail without a price as they are."""
    if isinstance(found, Focus):
        scores_BN = signed_scores(found, batch)
    elif signed:
        scores_BN = mask_illegal(found, batch)
    else:
        return found
    return rebalance(scores_BN, batch) if rebalanced else scores_BN


def _valued_actions(focus: Focus, row: int, context: Context) -> Candidates:
    """The legal actions of one row's context, scored by their values of detail."""
    lod_map, tail = context.lod_map, context.protected_tail
    more, less = (
        candidates_of(lod_map, tail, values_BN[row, : len(lod_map.nodes)].double().cpu().numpy())
        for values_BN in (focus.expand_BN, focus.collapse_BN)
    )
    return replace(more, score_A=np.where(more.is_expand_A, more.score_A, less.score_A))


def search_price(focus: Focus, contexts: Sequence[Context], rooms: Sequence[int]) -> Focus:
    """The same values with the shadow price of each context in place of the network's own."""
    prices = []
    for row, (context, room) in enumerate(zip(contexts, rooms, strict=True)):
        candidates = _valued_actions(focus, row, context)
        dearest = max(candidates.positions_A, default=1)
        prices.append(shadow_price(candidates, room) / dearest)
    return replace(focus, price_BR=focus.price_BR.new_tensor(prices)[:, None])


def subtract_shadow_price(values_N: Tensor, lod_map: LODMap, room: int, protected_tail: int) -> Tensor:
    """Values of detail [N] minus the shadow price of the positions that an action takes or frees.

    The price balances all legal actions for a working context that may grow by `room` positions. Every entry
    pays as the dearest action does; `score_actions` prices each action.
    """
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
