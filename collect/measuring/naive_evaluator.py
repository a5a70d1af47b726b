"""The slow definition of a label: assemble the edited context, run the whole model, read the horizon.

What the source documents' `compute_expand_utility` and `compute_collapse_utility` do, one full forward pass
per action and snapshot, without any cache and with the model's own attention. Tests, benchmarks and the check
of a new architecture compare the evaluator with it; no stored label comes from here.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.protocol import FrozenModel
from mctrace.context.actions import Action, apply_action
from mctrace.context.lod_map import Entries, LODMap
from mctrace.context.working_context import gather_embeddings


def naive_delta_nll(
    model: FrozenModel, document: DocumentTree, snapshot: LODMap, action: Action, horizon: int
) -> Tensor:
    """Per-token delta_nll [horizon] after the snapshot's cursor, nats per token."""
    after_H = naive_nll(model, document, apply_action(snapshot, action), horizon)
    return after_H - naive_nll(model, document, snapshot, horizon)


def naive_nll(model: FrozenModel, document: DocumentTree, snapshot: LODMap, horizon: int) -> Tensor:
    """Per-token NLL [horizon] after the snapshot's cursor, from one uncached pass over everything."""
    whole = snapshot.extended(snapshot.cursor + horizon).entries
    return _nll(model, document, whole, snapshot.start, slice(snapshot.cursor, snapshot.cursor + horizon))


@torch.inference_mode()
def _nll(model: FrozenModel, document: DocumentTree, entries: Entries, start: int, tokens: slice) -> Tensor:
    embeddings_ND = gather_embeddings(entries, document.embeddings)[:-1]
    position_N = torch.from_numpy(entries.position_N(start)).to(embeddings_ND.device)[:-1]
    num_entries, horizon = len(embeddings_ND), tokens.stop - tokens.start
    keep_H = torch.arange(num_entries - horizon, num_entries, device=embeddings_ND.device)
    logits_HV = model.logits(embeddings_ND, position_N, keep_H)
    targets_H = document.tokens_T[tokens].to(logits_HV.device)
    return cross_entropy(logits_HV.float(), targets_H, reduction="none")
