"""Evaluation of gists on held-out documents, beside deletion and whatever else is asked for."""

import hashlib
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
from mctrace.gists.evaluation.rows_file import append_document, read_documents_done, results_of
from mctrace.gists.evaluation.variants import JudgedGists, Variant
from mctrace.progress import Progress


@dataclass(frozen=True)
class GistNetEvaluation:
    """Losses with gists, with the variants beside them and without the spans, over held-out documents."""

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
    judged: JudgedGists,
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
    beside: Sequence[JudgedGists] = (),
    rows: Path | None = None,
) -> GistNetEvaluation:
    """Measure `judged`, called `name` in the answer, on the documents of `split`, and the gists `beside`.

    With `rows` each document is kept in that JSONL file as soon as it is measured, and those that the file
    holds already, of the same conditions, are taken from there. Raises InputError when no document is long
    enough, or the file cannot be read.
    """
    held_out = choose_held_out(documents, split, config)
    together = JudgedGists(
        {name: variant for gists in (*beside, judged) for name, variant in gists.variants.items()},
        " ".join(gists.content_hash for gists in (*beside, judged)),
    )
    key = _conditions(together, source, dtype, tree, config)
    found = _measure(together.variants, model, held_out, tree, config, progress, rows, key)
    summary = summarise_evaluation(found, config)
    corpora = sorted({document.corpus for document in held_out})
    answer = {
        "gistnet": name,
        "gist_hash": judged.content_hash,
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


def _conditions(
    judged: JudgedGists, source: ModelSource, dtype: str, tree: TreeShape, config: GistEvaluationConfig
) -> str:
    """Hash of everything that decides a document's results, besides the document."""
    settings = {key: value for key, value in asdict(config).items() if key != "documents_per_corpus"}
    parts = [judged.content_hash, list(judged.variants), source.model_hash, dtype, asdict(tree), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _measure(
    variants: Mapping[str, Variant],
    model: FrozenCausalLM,
    held_out: Sequence[HeldOutDocument],
    tree: TreeShape,
    config: GistEvaluationConfig,
    progress: Progress,
    rows: Path | None,
    key: str,
) -> Iterator[LossChange | Diversity]:
    done = read_documents_done(rows, key) if rows else {}
    progress.start("evaluating", len(held_out), "documents")
    for document in held_out:
        if document.document_id in done:
            yield from results_of(done[document.document_id], document)
        else:
            found = list(evaluate_document(model, variants, document, tree, config))
            if rows:
                append_document(rows, key, document, found)
            yield from found
        progress.advance(1)
    progress.stop()
