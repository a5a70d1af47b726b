"""The ladder of ceilings over held-out documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import check_whole_attention
from mctrace.errors import InputError
from mctrace.gists.config import GistCeilingConfig
from mctrace.gists.evaluation.ceiling import CeilingResult, measure_ceilings
from mctrace.gists.evaluation.ceiling_summary import summarise_ceilings
from mctrace.gists.evaluation.loss_changes import HeldOutDocument
from mctrace.progress import Progress


def evaluate_ceilings(
    model: FrozenCausalLM,
    documents: Sequence[HeldOutDocument],
    split: str,
    config: GistCeilingConfig,
    progress: Progress,
) -> tuple[list[dict[str, Any]], Mapping[str, int]]:
    """One row per rung, and the number of documents of each corpus, at most `documents_per_corpus`.

    Raises InputError when no document of the split is long enough, ModelError for an architecture that cannot
    be measured.
    """
    check_whole_attention(model.network.config)
    kept: dict[str, list[HeldOutDocument]] = {}
    for document in documents:
        chosen = kept.setdefault(document.corpus, [])
        if len(document.tokens) >= config.window_tokens and len(chosen) < config.documents_per_corpus:
            chosen.append(document)
    held_out = [document for chosen in kept.values() for document in chosen]
    if not held_out:
        raise InputError(
            f"no document of the {split} split has {config.window_tokens} tokens: lower "
            "gist_ceiling.window_tokens, or take another --split"
        )
    progress.start("optimising gists", len(held_out), "documents")
    found: dict[str, list[CeilingResult]] = {}
    for document in held_out:
        tokens_T = torch.from_numpy(document.tokens.astype(np.int64))
        found[document.document_id] = list(measure_ceilings(model, tokens_T, document.document_id, config))
        progress.advance(1)
    progress.stop()
    counts = {corpus: len(chosen) for corpus, chosen in kept.items() if chosen}
    return summarise_ceilings(found, config.seed), counts
