"""Sealed documents and sides: what was trained on, and what is not as it was, stops a run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.proof import document_sets
from experiments.proof.document_sets import check_seal, check_sides, sealed
from experiments.proof.question_documents import QuestionDocument
from experiments.proof.ruler import TASKS, ruler_documents
from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document, document_id
from mctrace.collect.corpus.placement_commits import PlacementCommits
from mctrace.collect.corpus.split_assigner import Origin, SplitAssigner, placed_alone
from mctrace.datasets.store.store import create_store
from mctrace.errors import InputError
from tests.collect.making import random_tokens

CONFIG = CorpusConfig(min_tokens=1)


def placed(tokens: np.ndarray, carrier: np.ndarray, split: str | None = None) -> Document:
    """A document made of a carrier, in `split` where that is given."""
    identity = document_id(tokens, "tokenizer")
    origin = Origin("carrier" + identity[:8], placed_alone("carrier" + identity[:8], carrier, CONFIG))
    if split:
        origin = replace(origin, intended=replace(origin.intended, split=split))
    return Document(
        identity, "a.txt", tokens, "tokenizer", placed_alone(identity, tokens, CONFIG), origin=origin
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_carrier_that_was_trained_on_stops_the_run(tmp_path, split):
    store = create_store(str(tmp_path / "store"))
    carrier = random_tokens(600, 1, 4096)
    trained = placed(random_tokens(400, 2, 4096), carrier, split)
    assigner = SplitAssigner(CONFIG, {})
    assigner.place_as(trained.document_id, trained.placement, trained.origin)
    PlacementCommits(store, assigner, CONFIG, "run", Skipped()).commit([trained])
    edited = carrier.copy()
    edited[100] += 5000
    same_carrier, other = (
        placed(random_tokens(400, 3, 4096), edited),
        placed(*[random_tokens(400, 4, 4096)] * 2),
    )
    check_sides([other], store.location.uri)
    if split == "test":
        check_sides([same_carrier, other], store.location.uri)
    else:
        with pytest.raises(InputError, match=f"a near-duplicate .* in its {split} split"):
            check_sides([same_carrier, other], store.location.uri)


def test_other_test_documents_than_the_sealed_ones_are_refused(tmp_path, monkeypatch, capsys):
    documents = [
        QuestionDocument(f"d{i}", "ordinary", group, np.arange(i, i + 9, dtype=np.int32))
        for i, group in enumerate(("prose", "prose", "sources"))
    ]
    seal = tmp_path / "seal.json"
    seal.write_text(json.dumps({"tokenizer_hash": "tokenizer", "groups": sealed(documents)}))
    monkeypatch.setattr(document_sets, "SEAL", seal)
    source = SimpleNamespace(tokenizer_hash="tokenizer")
    check_seal(documents, source)
    changed = [replace(documents[0], tokens=documents[0].tokens[:-1]), *documents[1:]]
    for others in (changed, documents[1:], [documents[1], documents[0], documents[2]]):
        with pytest.raises(InputError, match=r"not those of seal.json \(ordinary: prose\)"):
            check_seal(others, source)
    check_seal(documents[1:], SimpleNamespace(tokenizer_hash="other"))
    assert "not sealed" in capsys.readouterr().out


def test_the_committed_seal_is_of_every_group():
    groups = json.loads(document_sets.SEAL.read_text())["groups"]
    assert {name: found["documents"] for name, found in groups.items()} == {
        "ordinary: prose": 24, "ordinary: sources": 24,
        "recall: seen wording": 48, "recall: unseen wording": 48,
        **{f"ruler: {task}": 14 for task in TASKS},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("task", TASKS)
def test_rulers_tasks_end_in_a_question_whose_answer_begins_a_block(task):
    pytest.importorskip("lm_eval")
    tokenizer = resolve_model(SMOLLM2_ALIAS).load_tokenizer()
    documents = ruler_documents(tokenizer, task, 1024, 2, 7, 32)
    assert len({document.document_id for document in documents}) == 2
    for document, again in zip(documents, ruler_documents(tokenizer, task, 1024, 2, 7, 32), strict=True):
        assert document.document_id == again.document_id
        (question,) = document.questions
        assert question.first_token % 32 == 0
        assert question.end_token == len(document.tokens) <= 1024
        asked = tokenizer.decode(document.tokens[: question.first_token].tolist())
        answer = tokenizer.decode(document.tokens[question.first_token :].tolist())
        for value in question.expected:
            assert value in answer
            assert value in asked
