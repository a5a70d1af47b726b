"""Closed-loop evaluation: every policy on every held-out document, row by row into a results folder."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop, held_out_documents
from mctrace.analysis.closed_loop.policy_registry import NamedPolicy, make_policies
from mctrace.analysis.closed_loop.policy_run import run_policy
from mctrace.analysis.closed_loop.rows_file import append_row, make_row, read_rows
from mctrace.analysis.closed_loop.summary import PolicySummary, as_json, summarise
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CorpusConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.documents import Document
from mctrace.collect.measuring.bring_up import bring_up, resolve_evaluable_model
from mctrace.collect.planning.lensnet_policy import embed_document
from mctrace.collect.planning.run_plan import provenance_of, refuse_anchored
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import InputError
from mctrace.progress import Progress
from mctrace.train.run_files import CLOSED_LOOP_FILE, CLOSED_LOOP_ROWS_FILE


@dataclass(frozen=True)
class ClosedLoopTask:
    """What is evaluated: policies and checkpoints on the documents of one split, under which settings."""

    model: ModelConfig
    gists: GistConfig
    tree: TreeShape
    corpus: CorpusConfig
    split: str
    store_uri: str
    """documents that this store holds keep the split they have there"""
    protected_tail: int
    batch_tokens: int | Literal["auto"]
    allocator: AllocatorConfig
    loop: ClosedLoopConfig
    checkpoints: Sequence[Path] = ()


@dataclass(frozen=True)
class ClosedLoopResult:
    """Summaries by group and policy; `answer` is what CLOSED_LOOP_FILE holds."""

    summaries: Mapping[str, Mapping[str, PolicySummary]]
    answer: Mapping[str, Any]


def evaluate_closed_loop(
    task: ClosedLoopTask, folder: Path, progress: Progress, notify: Callable[[str], None]
) -> ClosedLoopResult:
    """Run every policy on every document and write rows and summary into `folder`.

    Rows that are there already, under the same conditions, are not run again. `notify` gets a sentence when
    fewer documents are long enough than asked for.

    Raises InputError when no document is long enough or `folder` cannot be made, ConfigError when two
    policies have the same name, ModelError when the base model has too few positions or its loss is not
    finite.
    """
    source = resolve_evaluable_model(task.model)
    provenance = provenance_of(source, task.model, task.gists, task.tree)
    refuse_anchored(task.gists, "the closed loop")
    policies = list(
        make_policies(source, provenance, task.loop, task.allocator, task.protected_tail, task.checkpoints)
    )
    documents = held_out_documents(source, task.corpus, task.tree, task.loop, task.split, task.store_uri)
    if len(documents) < task.loop.documents:
        notify(
            f"{len(documents)} of closed_loop.documents={task.loop.documents} held-out documents "
            "are long enough; give more corpora for narrower intervals"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the results folder {folder} cannot be made: {error.strerror}") from error
    rows: list[Mapping[str, Any]] = []
    progress.start("closed loop", len(documents) * len(policies), "runs")
    try:
        for row in _rows(task, source, provenance, documents, policies, folder / CLOSED_LOOP_ROWS_FILE):
            rows.append(row)
            progress.advance(1, str(row["policy"]))
    finally:
        progress.stop()
    block_size = task.tree.block_size
    summaries = summarise(
        rows, task.loop.w_max - block_size, task.loop.seed, block_size=block_size, horizon=task.loop.horizon
    )
    answer = _answer(task, source, provenance, len(documents), summaries)
    (folder / CLOSED_LOOP_FILE).write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    return ClosedLoopResult(summaries, answer)


def _rows(
    task: ClosedLoopTask,
    source: ModelSource,
    provenance: Provenance,
    documents: Sequence[tuple[Document, Loop]],
    policies: Sequence[NamedPolicy],
    file: Path,
) -> Iterator[Mapping[str, Any]]:
    """A row for every document and policy: from `file` where it is there, else run and appended to it."""
    done = read_rows(file)
    loaded = bring_up(source, task.model, task.gists, provenance, task.batch_tokens)
    for document, loop in documents:
        reader = None
        for named in policies:
            row = done.get((named.key, document.document_id))
            if row is None:
                reader = reader or ContextReader(
                    loaded.model, embed_document(loaded.model, loaded.gistnet, document, task.tree)
                )
                steps = run_policy(
                    named.policy, reader, document.document_id, loop, task.tree, task.loop,
                    task.protected_tail, loaded.batching,
                )  # fmt: skip
                row = make_row(named.key, document.document_id, document.source, named.name, steps)
                append_row(file, row)
            yield {**row, "policy": named.name}


def _answer(
    task: ClosedLoopTask,
    source: ModelSource,
    provenance: Provenance,
    num_documents: int,
    summaries: Mapping[str, Mapping[str, PolicySummary]],
) -> dict[str, Any]:
    return {
        "split": task.split,
        "corpus": list(task.corpus.paths),
        "num_documents": num_documents,
        "model": {"name": source.name, "hash": source.model_hash, "dtype": provenance.dtype},
        "gists": {"source": task.gists.source, "hash": provenance.gist_hash},
        "checkpoints": [str(checkpoint) for checkpoint in task.checkpoints],
        "block_size": task.tree.block_size,
        "protected_tail": task.protected_tail,
        "closed_loop": asdict(task.loop),
        "allocator": asdict(task.allocator),
        "groups": as_json(summaries),
    }
