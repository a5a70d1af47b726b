"""The proof's loop: every policy on every document at every budget, row by row into a file.

A row that is there under the same conditions is not run again, so that a run goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.proof.policy_table import PolicyMaker, applies
from experiments.proof.question_documents import QuestionDocument
from mctrace.analysis.closed_loop.answers import run_answers
from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import place_loop
from mctrace.analysis.closed_loop.policies import Policy
from mctrace.analysis.closed_loop.policy_run import run_policy
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.bring_up import EvaluationModels
from mctrace.collect.planning.part_ids import EVALUATOR_VERSION
from mctrace.context.tree import TreeShape
from mctrace.gists.network.gistnet import build_tree

Row = Mapping[str, Any]
_SHORT, _LONG = 4_096, 8_192
"""tokens a context reaches back, by whether the document is long"""


@dataclass(frozen=True)
class ProofLoop:
    """Where the loop runs; `config.w_max` and `config.window` are replaced by budgets and documents."""

    models: EvaluationModels
    policies: PolicyMaker
    tree: TreeShape
    config: ClosedLoopConfig
    file: Path

    def run(
        self, documents: Sequence[QuestionDocument], names: Iterable[str], budgets: Sequence[int]
    ) -> list[Row]:
        """Rows of all policies on all documents at all budgets."""
        return list(self._rows(documents, list(names), budgets))

    def _rows(
        self, documents: Sequence[QuestionDocument], names: Sequence[str], budgets: Sequence[int]
    ) -> Iterator[Row]:
        done = {row["key"]: row for row in read_rows(self.file)}
        started, num_run = time.perf_counter(), 0
        for number, document in enumerate(documents, start=1):
            reader: ContextReader | None = None
            for budget in budgets:
                for name in (name for name in names if applies(name, document.family)):
                    key = self._key(document, name, budget)
                    if key not in done:
                        reader = reader or ContextReader(self.models.model, self._embed(document))
                        row = {"key": key, **self._measure(document, reader, name, budget)}
                        with self.file.open("a", encoding="utf-8") as lines:
                            lines.write(json.dumps(row) + "\n")
                        done[key] = row
                        num_run += 1
                    yield done[key]
            if reader:
                seconds = time.perf_counter() - started
                print(
                    f"loop: {number}/{len(documents)} documents, {num_run} runs, {seconds:.0f} s", flush=True
                )

    def _measure(
        self, document: QuestionDocument, reader: ContextReader, name: str, budget: int
    ) -> dict[str, Any]:
        config = self._config(document, budget)
        policy = self.policies.make(name, budget - self.tree.block_size, self.tree.block_size)
        found = (self._answers if document.questions else self._refocuses)(policy, document, reader, config)
        return {
            "document": document.name, "family": document.family, "group": document.group, "policy": name,
            "budget": budget, "window": config.window, **found,
        }  # fmt: skip

    def _answers(
        self, policy: Policy, document: QuestionDocument, reader: ContextReader, config: ClosedLoopConfig
    ) -> dict[str, Any]:
        records = run_answers(
            policy, reader, self.policies.tokenizer, document.document_id, document.questions, self.tree,
            config, self.policies.protected_tail, self.models.batching,
        )  # fmt: skip
        tokens = [question.end_token - question.first_token for question in document.questions]
        return {
            "nll": float(np.average([record.nll for record in records], weights=tokens)),
            "exact_match": float(np.mean([record.exact for record in records])),
            "milliseconds": 1000 * float(np.median([record.seconds for record in records])),
            "positions": max(record.num_entries for record in records),
            "generated": [record.generated for record in records],
        }

    def _refocuses(
        self, policy: Policy, document: QuestionDocument, reader: ContextReader, config: ClosedLoopConfig
    ) -> dict[str, Any]:
        loop = place_loop(len(document.tokens), config, self.tree)
        assert loop is not None
        records = run_policy(
            policy, reader, document.document_id, loop, self.tree, config,
            self.policies.protected_tail, self.models.batching,
        )  # fmt: skip
        return {
            "nll": float(np.mean([record.nll for record in records])),
            "exact_match": None,
            "milliseconds": 1000 * float(np.median([record.seconds for record in records])),
            "positions": max(record.num_entries for record in records),
        }

    def _config(self, document: QuestionDocument, budget: int) -> ClosedLoopConfig:
        window = _LONG if document.is_long else _SHORT
        return replace(self.config, w_max=budget, window=window)

    def _embed(self, document: QuestionDocument) -> DocumentTree:
        tokens_T = torch.from_numpy(document.tokens).long()
        embeddings_Td = self.models.model.embed(tokens_T)
        return DocumentTree(tokens_T, build_tree(self.models.gistnet, embeddings_Td, self.tree))

    def _key(self, document: QuestionDocument, name: str, budget: int) -> str:
        config = self._config(document, budget)
        conditions = {
            "document": document.document_id, "policy": self.policies.identity(name), "name": name,
            "refocuses": config.refocuses, "horizon": config.horizon, "w_max": budget,
            "window": config.window, "seed": config.seed, "allocator": asdict(self.policies.allocator),
            "provenance": self.policies.provenance.columns, "absence": self.policies.provenance.absence,
            "protected_tail": self.policies.protected_tail, "evaluator_version": EVALUATOR_VERSION,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(file: Path) -> list[Row]:
    """Rows of earlier runs; a last line that was cut short is taken out of the file and runs again."""
    if not file.exists():
        return []
    whole, newline, cut = file.read_bytes().rpartition(b"\n")
    if cut:
        file.write_bytes(whole + newline)
    return [json.loads(line) for line in whole.splitlines()]
