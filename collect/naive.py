"""The slow definition of a label: assemble the edited context, run the whole model, read the horizon.

What `compute_expand_utility` and `compute_collapse_utility` of spec/lensnet-training.md do, one full forward
pass per action and snapshot, without any cache. Tests and benchmarks hold the evaluator against it; nothing
else may use it.
"""

import torch
from torch import Tensor

from mctrace.collect.evaluator import DocumentTree, token_nll
from mctrace.context.actions import Action, apply_action
from mctrace.context.frozen_model import FrozenModel
from mctrace.context.lod_map import LODMap
from mctrace.context.working_context import gather_embeddings


def naive_delta_nll(
    model: FrozenModel, document: DocumentTree, snapshot: LODMap, action: Action, horizon: int
) -> Tensor:
    """Per-token delta_nll [horizon] after the snapshot's cursor, nats per token."""
    after_H = naive_nll(model, document, apply_action(snapshot, action), horizon)
    return after_H - naive_nll(model, document, snapshot, horizon)


@torch.inference_mode()
def naive_nll(model: FrozenModel, document: DocumentTree, snapshot: LODMap, horizon: int) -> Tensor:
    """Per-token NLL [horizon] after the snapshot's cursor, from one uncached pass over everything."""
    whole = snapshot.extended(snapshot.cursor + horizon).entries
    embeddings_ND = gather_embeddings(whole, document.embeddings)[:-1]
    position_N = torch.from_numpy(whole.position_N(snapshot.start)).to(embeddings_ND.device)[:-1]
    num_entries = len(embeddings_ND)
    keep_H = torch.arange(num_entries - horizon, num_entries, device=embeddings_ND.device)
    logits_HV, _ = model.logits(embeddings_ND, position_N, keep_H, keep_cache=False)
    targets_H = document.tokens_T[snapshot.cursor : snapshot.cursor + horizon]
    return token_nll(logits_HV, targets_H)
