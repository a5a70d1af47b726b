"""Evaluation of a GistNet on held-out documents, beside mean pooling and deletion."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.model_source import ModelSource
from mctrace.context.tree import TreeShape
from mctrace.errors import InputError
from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.evaluation.evaluation_summary import EvaluationSummary, summarise_evaluation
from mctrace.gists.evaluation.loss_changes import Diversity, HeldOutDocument, LossChange, evaluate_document
from mctrace.gists.evaluation.model_card import EVALUATION, write_card
from mctrace.gists.network.gistnet import GistNet, MeanGistNet
from mctrace.progress import Progress


@dataclass(frozen=True)
class GistNetEvaluation:
    """Losses with a GistNet's gists, with mean-pooled ones and without the spans, over held-out documents."""

    summary: EvaluationSummary
    answer: Mapping[str, Any]
    """everything as plain JSON"""

    def write_card(self, folder: Path) -> None:
        """Write evaluation.json and MODEL_CARD.md into the GistNet's folder."""
        (folder / EVALUATION).write_text(json.dumps(self.answer, indent=1) + "\n", encoding="utf-8")
        write_card(folder, self.summary, self.answer)


def choose_held_out(
    documents: Sequence[HeldOutDocument], split: str, config: GistEvaluationConfig
) -> list[HeldOutDocument]:
    """Documents of `split` that are long enough, at most `documents_per_corpus` of each corpus, in order.

    Raises InputError when there is none.
    """
    shortest = config.context_tokens + max(config.horizons)
    kept: dict[str, list[HeldOutDocument]] = {}
    for document in documents:
        if len(document.tokens) >= shortest:
            found = kept.setdefault(document.corpus, [])
            if len(found) < config.documents_per_corpus:
                found.append(document)
    if not kept:
        raise InputError(
            f"no document of the {split} split has {shortest} tokens, the context and its horizon"
        )
    return [document for found in kept.values() for document in found]


def evaluate_gistnet(
    gistnet: GistNet,
    name: str,
    source: ModelSource,
    model: FrozenCausalLM,
    documents: Sequence[HeldOutDocument],
    split: str,
    *,
    dtype: str,
    tree: TreeShape,
    config: GistEvaluationConfig,
    progress: Progress,
) -> GistNetEvaluation:
    """Measure `gistnet`, called `name` in the answer, on the documents of `split`.

    `gistnet` is on the device of `model` already. Raises InputError when no document is long enough.
    """
    held_out = choose_held_out(documents, split, config)
    summary = summarise_evaluation(_measure(gistnet, model, held_out, tree, config, progress), config)
    corpora = sorted({document.corpus for document in held_out})
    answer = {
        "gistnet": name,
        "gist_hash": gistnet.content_hash,
        "model": source.name,
        "model_hash": source.model_hash,
        "dtype": dtype,
        "block_size": tree.block_size,
        "split": split,
        "num_documents": {corpus: sum(d.corpus == corpus for d in held_out) for corpus in corpora},
        "settings": asdict(config),
        **summary.to_json(),
    }
    return GistNetEvaluation(summary, answer)


def _measure(
    gistnet: GistNet,
    model: FrozenCausalLM,
    held_out: Sequence[HeldOutDocument],
    tree: TreeShape,
    config: GistEvaluationConfig,
    progress: Progress,
) -> Iterator[LossChange | Diversity]:
    gistnets: dict[str, GistNet] = {"mean": MeanGistNet()}
    if gistnet.content_hash != "mean":
        gistnets["trained"] = gistnet
    progress.start("evaluating", len(held_out), "documents")
    for document in held_out:
        yield from evaluate_document(model, gistnets, document, tree, config)
        progress.advance(1)
    progress.stop()
