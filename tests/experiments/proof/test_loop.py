"""The proof's loop on a tiny model: rows for what applies, once, and again only where conditions change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.proof.loop import ProofLoop, read_rows
from experiments.proof.policy_table import PolicyMaker
from experiments.proof.question_documents import QuestionDocument
from mctrace.analysis.closed_loop.answers import Question
from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.collect.measuring.bring_up import EvaluationModels
from mctrace.collect.measuring.evaluator import Batching
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.gists.network.gistnet import MeanGistNet
from tests.models import VOCABULARY, tiny_model

TREE = TreeShape(4, 1, "tokens")
PROVENANCE = Provenance("model", "tokenizer", "gists", "float32", 4, 1, "tokens")
CONFIG = ClosedLoopConfig(w_max=52, window=160, refocuses=4, horizon=12)


class Tokenizer:
    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def documents() -> list[QuestionDocument]:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 240).astype(np.int32)
    asked = (Question(201, 204, ("1",)), Question(220, 223, ("1", "2")))
    return [
        QuestionDocument("r", "ruler", "task", tokens, asked),
        QuestionDocument("o", "ordinary", "prose", tokens),
    ]


@pytest.fixture
def loop(tmp_path: Path) -> ProofLoop:
    models = EvaluationModels(tiny_model(), MeanGistNet(), Batching(2048))
    policies = PolicyMaker(PROVENANCE, AllocatorConfig(), 8, Tokenizer(), ())
    return ProofLoop(models, policies, TREE, CONFIG, tmp_path / "loop.jsonl")


NAMES = ["truncation", "everything", "bm25-2", "similarity", "attention", "random", "told"]


def test_every_policy_that_applies_has_a_row_for_every_document_and_budget(loop):
    rows = loop.run(documents(), NAMES, [52, 36])
    found = {(row["document"], row["policy"], row["budget"]) for row in rows}
    assert found == {(d, name, b) for d in "ro" for name in NAMES if name != "told" for b in (52, 36)}
    for row in rows:
        if row["policy"] != "everything":
            assert row["positions"] <= row["budget"] - 4
        assert np.isfinite(row["nll"])
        assert (row["exact_match"] is None) == (row["family"] == "ordinary")
    of_truncation = [row for row in rows if row["policy"] == "truncation" and row["document"] == "r"]
    assert [len(row["generated"]) for row in of_truncation] == [2, 2]


def test_a_row_that_is_there_is_not_run_again(loop, monkeypatch):
    first = loop.run(documents(), ["truncation"], [52])
    text = loop.file.read_text()
    loop.file.write_text(text + '{"key": "cut sho')
    monkeypatch.setattr(ProofLoop, "_measure", None)
    assert loop.run(documents(), ["truncation"], [52]) == first
    assert loop.file.read_text() == text
    assert read_rows(loop.file) == first


def test_a_row_of_other_conditions_is_another_one(loop):
    (one,) = loop.run(documents()[:1], ["bm25-2"], [52])
    other = replace(loop, config=replace(CONFIG, refocuses=5))
    (again,) = other.run(documents()[:1], ["bm25-2"], [52])
    assert again["key"] != one["key"]
    assert len(read_rows(loop.file)) == 2


def test_retrieval_shows_no_more_blocks_than_the_budget_has_beside_the_protected_tail(loop):
    policies = loop.policies
    assert policies.make("bm25-8", 480, 32).num_blocks == 8
    assert policies.make("bm25-8", 24, 4).num_blocks == 4
    assert policies.make("bm25-8", 8, 4).num_blocks == 1
