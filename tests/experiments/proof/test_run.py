"""The runner on a tiny model: development chooses, a final run tests what was chosen, a page comes of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.proof import run as proof
from experiments.proof.document_sets import Counts, DocumentSet
from experiments.proof.loop import ProofLoop
from experiments.proof.page import page
from experiments.proof.policy_table import PolicyMaker
from experiments.proof.question_documents import SEEN, QuestionDocument
from experiments.proof.run import Experiment, Scale
from mctrace.analysis.closed_loop.answers import Question
from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.collect.measuring.bring_up import EvaluationModels
from mctrace.collect.measuring.evaluator import Batching
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import InputError
from mctrace.gists.network.gistnet import MeanGistNet
from tests.collect.lensnets import save_random_lensnet
from tests.models import VOCABULARY, WIDTH, tiny_model

TREE = TreeShape(4, 1, "tokens")
PROVENANCE = Provenance("model", "tokenizer", MeanGistNet().content_hash, "float32", 4, 1, "tokens")
NETWORKS = ("lensnet-0", "lensnet-1", "lensnet-2", "linear-0")


class Tokenizer:
    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def documents(split: str) -> Iterator[QuestionDocument]:
    for number, family in enumerate(("recall", "ruler", "ordinary") * 2):
        generator = np.random.default_rng(number + 10 * (split == "test"))
        tokens = generator.integers(0, VOCABULARY, 240).astype(np.int32)
        questions = () if family == "ordinary" else (Question(201, 204, ("1",)),)
        yield QuestionDocument(f"{split}-{number}", family, "group", tokens, questions)
    yield QuestionDocument(
        f"{split}-seen", "recall", SEEN, tokens[::-1].copy(), (Question(201, 204, ("1",)),)
    )


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The runner's own steps, with random networks and made-up documents instead of the costly ones."""
    counts = Counts(2, 2, 2)
    tiny = Scale(
        (3, 0), (3, 0), 4, 10, 3, counts, counts, (36, 52), 1, 16, ("bm25-2", "similarity"), ("random",)
    )
    monkeypatch.setitem(proof.SCALES, "tiny", tiny)
    monkeypatch.setattr(proof, "PRIMARY_BUDGET", 52)
    monkeypatch.setattr(proof, "fetch_texts", lambda folder: folder)
    monkeypatch.setattr(Experiment, "collect", lambda self: None)

    def train(self: Experiment) -> list[Path]:
        return [
            save_random_lensnet(self.folder / name / "best", PROVENANCE, WIDTH, target="value", seed=seed)
            for seed, name in enumerate(NETWORKS)
        ]

    def loop(self: Experiment, checkpoints: list[Path]) -> ProofLoop:
        models = EvaluationModels(tiny_model(), MeanGistNet(), Batching(2048))
        policies = PolicyMaker(PROVENANCE, AllocatorConfig(), 8, Tokenizer(), checkpoints)
        config = ClosedLoopConfig(w_max=52, refocuses=3, horizon=12)
        return ProofLoop(models, policies, TREE, config, self.folder / "loop.jsonl")

    monkeypatch.setattr(Experiment, "train", train)
    monkeypatch.setattr(Experiment, "loop", loop)
    monkeypatch.setattr(Experiment, "documents", lambda self, split: DocumentSet(tuple(documents(split)), ()))
    return Experiment("tiny", tmp_path)


def test_development_chooses_and_a_final_run_tests_what_was_chosen(experiment):
    with pytest.raises(InputError, match=r"choices.json is not there: run without --final first"):
        next(proof.run(experiment, final=True))
    _, developed = proof.run(experiment, final=False)
    compared, tested = proof.run(experiment, final=True)
    assert (developed["set"], tested["set"]) == ("development", "test")
    assert tested["choices"] == developed["choices"]
    chosen = tested["choices"]
    assert chosen["lensnet"] in NETWORKS[:3]
    opponents = [(row["family"], row["against"]) for row in tested["primary"]]
    assert opponents == [
        (family, other)
        for family in ("recall", "ruler", "ordinary")
        for other in ("truncation", chosen["retrieval"][family])
    ]
    for row in tested["primary"]:
        assert row["nll"]["num_documents"] == 2
        assert row["nll"]["low"] <= row["nll"]["mean"] <= row["nll"]["high"]
        assert (row["exact_match"] is None) == (row["family"] == "ordinary")
    assert (compared["primary"], compared["curves"]) == (tested["primary"], [])
    assert "All policies" not in page(compared)
    assert {row["documents"] for row in tested["curves"]} == {1}  # the first of each group
    assert SEEN in {row["group"] for row in tested["curves"]}
    at = {(row["family"], row["budget"]) for row in tested["curves"] if row["policy"] == chosen["lensnet"]}
    assert at == {(family, budget) for family in ("recall", "ruler", "ordinary") for budget in (36, 52)}
    assert "test documents, measured once" in page(tested)


def test_a_second_run_measures_nothing_again(experiment, monkeypatch):
    _, first = proof.run(experiment, final=False)
    monkeypatch.setattr(ProofLoop, "_measure", None)
    _, again = proof.run(experiment, final=False)
    assert replaced(first) == replaced(again)


@pytest.mark.parametrize("match_words", [False, True])
def test_networks_that_match_words_are_trained_apart(tmp_path, monkeypatch, match_words):
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(proof, "mctrace", lambda *arguments: calls.append(arguments))
    experiment = Experiment("quick", tmp_path, match_words=match_words)
    folder = tmp_path / "match-words" if match_words else tmp_path
    assert experiment.train() == [folder / "lensnet-0" / "best", folder / "linear-0" / "best"]
    for arguments in calls:
        assert ("train.network.match_words=true" in arguments) == match_words
        assert str(tmp_path / "store") in arguments


def replaced(result: dict) -> dict:
    return {**result, "seconds": None}
