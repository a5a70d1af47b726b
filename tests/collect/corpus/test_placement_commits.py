"""Drivers that place near-duplicates at the same time agree on their split, whoever commits first."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus import placement_commits
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document, document_id
from mctrace.collect.corpus.placement_commits import PlacementCommits, known_placements
from mctrace.collect.corpus.split_assigner import (
    BETWEEN_SPLITS,
    Origin,
    SplitAssigner,
    placed_alone,
    split_of,
)
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store, create_store, open_store
from mctrace.datasets.upkeep.split_leaks import split_leaks
from mctrace.datasets.upkeep.verify import verify
from mctrace.progress import Silent
from tests.collect.making import random_tokens
from tests.collect.runs import TinyRun, tiny_run

CONFIG = CorpusConfig(min_tokens=1, validation_fraction=0.33, test_fraction=0.33)
NUM_PAIRS = 12


def copies(number: int, num_tokens: int = 400) -> list[np.ndarray]:
    """Two near-duplicates; `number` selects their text."""
    one = random_tokens(num_tokens, number, 4096)
    other = one.copy()
    other[[num_tokens // 3, num_tokens // 2]] += 5000
    return [one, other]


def documents_of(*texts: np.ndarray) -> dict[str, Document]:
    """Documents as a driver places them that knows of no other."""
    assigner = SplitAssigner(CONFIG, {})
    found = {}
    for tokens in texts:
        identity = document_id(tokens, "tokenizer")
        placement = assigner.place(identity, tokens)
        assert placement is not None
        found[identity] = Document(identity, "a.txt", tokens, "tokenizer", placement)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def commit(
    store: Store,
    documents: dict[str, Document],
    run_id: str = "run",
    config: CorpusConfig = CONFIG,
    left_out: Skipped | None = None,
) -> dict[str, Document]:
    """What a driver does with documents that it has planned without looking at the store."""
    assigner = SplitAssigner(config, {})
    for identity, document in documents.items():
        assigner.place_as(identity, document.placement)
    commits = PlacementCommits(store, assigner, config, run_id, Skipped() if left_out is None else left_out)
    return {document.document_id: document for document in commits.commit(list(documents.values()))}


def both_sides(numbers: range) -> tuple[dict[str, Document], dict[str, Document]]:
    """Documents of two drivers: one of each pair, in the split that each would choose alone."""
    pairs = [copies(number) for number in numbers]
    return documents_of(*(one for one, _ in pairs)), documents_of(*(other for _, other in pairs))


def test_two_drivers_that_planned_alone_would_disagree_and_do_not(store):
    ours, theirs = both_sides(range(NUM_PAIRS))
    alone = [[d.placement.split for d in side.values()] for side in (ours, theirs)]
    assert alone[0] != alone[1]
    placed = commit(store, ours), commit(store, theirs)
    for one, other in zip(placed[0].values(), placed[1].values(), strict=True):
        assert (one.placement.split, one.placement.split_group) == (
            other.placement.split,
            other.placement.split_group,
        )
    assert len(known_placements(store)) == 2 * NUM_PAIRS
    assert list(split_leaks(store.at())) == []


@pytest.mark.parametrize("num_rivals", [1, 2, 5])
def test_who_is_second_looks_at_what_was_placed_between_its_look_and_its_commit(
    store, monkeypatch, num_rivals
):
    ours, theirs = both_sides(range(NUM_PAIRS))
    rivals = [dict(list(theirs.items())[i::num_rivals]) for i in range(num_rivals)]
    write = PlacementCommits._write

    def write_late(*arguments):
        part = write(*arguments)
        if rivals:  # after this driver has looked and before it commits
            rival = rivals.pop()
            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(PlacementCommits, "_write", write)
                commit(open_store(store.location.uri), rival, "rival")
        return part

    monkeypatch.setattr(PlacementCommits, "_write", write_late)
    placed = commit(store, ours)
    assert not rivals
    assert len(placed) == NUM_PAIRS
    assert list(split_leaks(store.at())) == []
    known = known_placements(store)
    assert all(known[d].split == document.placement.split for d, document in placed.items())
    assert len(list(Path(store.location.root).glob("parts/placements/*/*"))) == num_rivals + 1


def test_placing_the_same_documents_again_adds_no_version(store):
    ours, _ = both_sides(range(NUM_PAIRS))
    placed = commit(store, ours)
    version = store.at().version
    again = commit(store, ours)
    assert {d: again[d].placement.split for d in again} == {d: placed[d].placement.split for d in placed}
    assert store.at().version == version


def test_a_near_duplicate_of_documents_in_two_splits_is_left_out(store):
    first, last = next(
        (one, other)
        for number in range(50)
        for one, other in [(random_tokens(300, number, 4096), random_tokens(300, number + 50, 4096))]
        if split_of(document_id(one, "tokenizer"), CONFIG)
        != split_of(document_id(other, "tokenizer"), CONFIG)
    )
    between = np.concatenate([first, last])
    loose = CorpusConfig(**{**vars(CONFIG), "near_duplicate_threshold": 0.3})
    left_out = Skipped()
    commit(store, documents_of(first, last), config=loose)
    assert commit(store, documents_of(between), config=loose, left_out=left_out) == {}
    assert left_out.counts == {BETWEEN_SPLITS: 1}
    assert len(known_placements(store)) == 2


def test_a_withdrawn_placement_part_does_not_block_the_next(store):
    for number in range(3):
        commit(store, documents_of(copies(number)[0]))
    first = next(c.part for c in store.at().parts if c.part.kind == placement_commits.KIND)
    store.ledger.withdraw({first.part_id})
    commit(store, documents_of(copies(3)[0]))
    assert len(known_placements(store)) == 3


PROGRAM = """
import sys
from mctrace.datasets.store.store import open_store
from tests.collect.corpus.test_placement_commits import both_sides, commit
uri, side, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sides = [both_sides(range(number * 4, number * 4 + 4))[side] for number in range(rounds)]
store = open_store(uri)
print("ready", flush=True)
sys.stdin.readline()
for documents in sides:
    commit(store, documents, f"driver {side}")
"""


@pytest.mark.slow
def test_two_processes_at_once_agree(store):
    rounds = 3
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, store.location.root, str(side), str(rounds)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for side in (0, 1)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(known_placements(open_store(store.location.root))) == 8 * rounds
    assert list(split_leaks(store.at())) == []


def near_duplicate_runs(tiny_settings, folder: Path) -> tuple[TinyRun, TinyRun]:
    """Two runs into one store, planned before either measures, over corpora of near-duplicates."""
    words = [[f"{chr(97 + (i * 7 + j * j) % 26)}{(i + 3) * (j + 5) % 97}" for j in range(140)]
             for i in range(NUM_PAIRS)]  # fmt: skip
    for name, changed in (("one", []), ("two", [40])):
        (folder / name).mkdir()
        for i, text in enumerate(words):
            edited = ["zz" if j in changed else word for j, word in enumerate(text)]
            (folder / name / f"{i:02d}.txt").write_text(" ".join(edited))
    settings = {**tiny_settings, "collect.trajectories_per_document": 1, "collect.max_actions": 2}
    first = tiny_run({**settings, "corpus.paths": (str(folder / "one"),)}, folder)
    second = tiny_run({**settings, "corpus.paths": (str(folder / "two"),)}, folder)
    return first, second


@pytest.mark.slow
def test_runs_over_near_duplicate_corpora_measure_them_in_one_split(tiny_settings, tmp_path):
    for run in near_duplicate_runs(tiny_settings, tmp_path):
        run.measure()
    query = (
        "select split_group, count(distinct split) as n, count(*) as m from documents group by split_group"
    )
    groups = fetch_rows(connect(run.store.at()), query)
    assert [(row["n"], row["m"]) for row in groups] == [(1, 2)] * NUM_PAIRS
    assert list(verify(run.store.at(), quick=False, progress=Silent())) == []
    kinds = [c.part.kind for c in run.store.at().parts]
    assert kinds.index("placements") < kinds.index("document")
    assert run.plan.missing(run.store) == []


def test_the_split_of_a_carrier_is_committed_with_what_is_made_of_it(store):
    """A later run that reads the carrier itself finds it placed, whatever it would have decided alone."""
    tokens = random_tokens(400, 7, 4096)
    carrier = placed_alone("carrier", tokens, CONFIG)
    other = next(split for split in ("train", "test") if split != carrier.split)
    (known,) = documents_of(copies(3)[0]).values()
    origin = Origin("carrier", replace(carrier, split=other))
    made = replace(known, placement=replace(known.placement, split=other), origin=origin)
    assigner = SplitAssigner(CONFIG, {})
    assigner.place_as(made.document_id, made.placement, made.origin)
    PlacementCommits(store, assigner, CONFIG, "run", Skipped()).commit([made])
    placed = known_placements(store)
    assert {name: (p.split, p.split_group) for name, p in placed.items()} == {
        "carrier": (other, "carrier"), made.document_id: (other, "carrier"),
    }  # fmt: skip
    later = SplitAssigner(CONFIG, placed).place("carrier", tokens)
    assert later is not None
    assert later.split == other


def test_verify_finds_near_duplicates_in_different_splits(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(PlacementCommits, "commit", lambda _, documents: documents)
    for run in near_duplicate_runs(tiny_settings, tmp_path):
        run.measure()
    (problem,) = verify(run.store.at(), quick=False, progress=Silent())
    assert "near-duplicate pairs in different splits, e.g." in problem.what
    assert 1 < int(problem.what.split()[0]) <= NUM_PAIRS


def test_verify_finds_a_document_measured_in_another_split_than_it_was_placed_in(
    tiny_settings, tmp_path, monkeypatch
):
    placed = PlacementCommits._placed

    def place_and_ignore(self, documents):
        monkeypatch.setattr(PlacementCommits, "_placed", lambda *of: _moved(placed(*of)))
        commit_placements(self, documents)
        return documents

    commit_placements = PlacementCommits.commit
    monkeypatch.setattr(PlacementCommits, "commit", place_and_ignore)
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    run.measure()
    problems = [problem.what for problem in verify(run.store.at(), quick=False, progress=Silent())]
    assert any(what.startswith("4 documents measured in another split") for what in problems)


def _moved(document: Document) -> Document:
    split = "train" if document.placement.split != "train" else "test"
    return replace(document, placement=replace(document.placement, split=split))
