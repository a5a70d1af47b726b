"""A run commits as it goes, can be stopped anywhere, and goes on without measuring anything twice."""

from pathlib import Path

import pytest

from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.placement_commits import PlacementCommits
from mctrace.collect.running.remaining_work import RemainingWork
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.upkeep.verify import verify
from mctrace.datasets.upkeep.withdrawal import withdraw_damaged
from mctrace.progress import Silent
from tests.collect.runs import tiny_run


class InterruptAfter(Silent):
    """Ctrl-C once so many items are committed."""

    def __init__(self, num_items: int) -> None:
        self._left, self._measures = num_items, False

    def start(self, label: str, total: float | None, unit: str) -> None:
        self._measures = label == "measuring"

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._left -= self._measures
        if self._left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_a_whole_store_and_the_next_one_finishes_it(tiny_settings, tmp_path):
    whole = tiny_run(tiny_settings, tmp_path / "whole", **{"corpus.limit": 6})
    whole.measure()
    broken = tiny_run(tiny_settings, tmp_path / "broken", **{"corpus.limit": 6})
    with pytest.raises(KeyboardInterrupt):
        broken.measure(progress=InterruptAfter(3))
    assert len(broken.plan.missing(broken.store)) == len(broken.plan.units) - 3
    rows = fetch_rows(connect(broken.store.at()), "select outcome from runs")
    assert [row["outcome"] for row in rows] == ["interrupted"]

    summary = broken.measure()
    assert summary.num_measured == len(broken.plan.units) - 3
    assert broken.labels() == pytest.approx(whole.labels(), abs=1e-6)
    assert broken.plan.missing(broken.store) == []


def test_a_third_run_has_nothing_to_do_and_adds_no_version(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    run.measure()
    version = run.store.at().version
    again = run.measure()
    assert again.run_id is None
    assert again.num_measured == 0
    assert run.store.at().version == version


def test_preference_variants_are_stored_without_actions_and_pair_up(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.num_random_variants": 2})
    run.measure()
    connection = connect(run.store.at())
    (counts,) = fetch_rows(
        connection,
        "select count(*) as n, count(*) filter (where is_baseline) as baselines, "
        "count(distinct variant_group_id) as groups, max(adv_delta) filter (where is_baseline) as zero "
        "from variants",
    )
    assert counts["n"] == 3 * counts["groups"]
    assert counts["baselines"] == counts["groups"]
    assert counts["zero"] == 0
    (pairs,) = fetch_rows(connection, "select count(*) as n, min(strength) as weakest from preference_pairs")
    assert pairs["n"] == 3 * counts["groups"]
    assert pairs["weakest"] > 0


def test_sampled_labels_carry_the_probability_they_were_sampled_with(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.max_actions": 6})
    run.measure()
    rows = fetch_rows(
        connect(run.store.at()),
        "select t.num_legal_actions, sum(1 / e.inclusion_probability) as estimate, count(*) as n "
        "from effects e join trajectories t using (trajectory_id) "
        "group by trajectory_id, t.num_legal_actions",
    )
    assert all(row["n"] <= 6 for row in rows)
    for row in rows:
        assert row["estimate"] == pytest.approx(row["num_legal_actions"])


def test_every_trajectory_brings_its_document_until_that_is_committed(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    stream = run.stream()
    work = RemainingWork(run.store, stream)
    placements = PlacementCommits(run.store, stream.assigner, run.config.corpus, "run", Skipped())
    items = work.items(placements, "run")
    first, sibling = next(items), next(items)
    assert first.document == sibling.document
    assert first.needs_document
    assert sibling.needs_document
    run.measure()
    assert run.plan.missing_documents(run.store) == set()
    folders = list((tmp_path / "store/parts/document").glob("*/*"))
    assert len(folders) == len(run.plan.documents)


def test_the_store_has_the_text_of_its_tokens(tiny_settings, corpus_folder, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3})
    run.measure()
    rows = fetch_rows(
        connect(run.store.at()),
        "select source, string_agg(v.text, '' order by position) as text from "
        "(select *, unnest(tokens) as token_id, generate_subscripts(tokens, 1) as position "
        "from document_tokens) "
        "join documents using (document_id) join vocabulary as v using (token_id) group by source",
    )
    assert len(rows) == 3
    for row in rows:
        # The tiny tokenizer spells a space with a letter of its own.
        text = (corpus_folder / Path(row["source"]).name).read_text()
        assert text.startswith(row["text"].replace("\u0120", " "))


@pytest.mark.parametrize("kind", ["trajectory", "document", "embeddings", "vocabulary", "drops"])
def test_what_was_withdrawn_is_measured_again_and_nothing_else_is_kept_twice(tiny_settings, tmp_path, kind):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.drop_controls": True})
    run.measure()
    before, whole = run.labels(), run.store.at()
    lost = next(c.part for c in whole.parts if c.part.kind == kind)
    (Path(run.store.location.root) / lost.folder / lost.files[0].path).unlink()
    assert [part.part_id for part in withdraw_damaged(run.store, Silent()).withdrawn] == [lost.part_id]
    assert run.measure().num_measured == 1
    assert run.store.at().part_ids - {c.part.part_id for c in whole.parts if c.part.kind == "run"} >= {
        c.part.part_id for c in whole.parts if c.part.kind != "run"
    }
    assert run.labels() == pytest.approx(before, abs=1e-6)
    assert list(verify(run.store.at(), quick=False, progress=Silent())) == []
    assert run.measure().num_measured == 0


def test_a_store_from_before_the_vocabulary_gains_it(tiny_settings, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("mctrace.collect.running.driver._commit_vocabulary", lambda *_: None)
        tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 3}).measure()
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    counted = "select count(*) as n from vocabulary"
    assert fetch_rows(connect(run.store.at()), counted) == [{"n": 0}]
    for _ in range(2):
        run.measure()
    assert fetch_rows(connect(run.store.at()), counted) == [{"n": 256}]
    assert [c.part.kind for c in run.store.at().parts].count("vocabulary") == 1


def test_small_parts_are_compacted_while_a_run_goes_on(tiny_settings, tmp_path):
    few = {**tiny_settings, "corpus.limit": 6}
    whole, run = tiny_run(few, tmp_path / "whole"), tiny_run(few, tmp_path / "compacted")
    whole.measure()
    run.measure(compact_every=4)
    kinds = {c.part.kind for c in run.store.at().parts if c.part.lineage}
    assert "trajectory" in kinds
    assert run.labels() == pytest.approx(whole.labels(), abs=1e-6)
    assert run.plan.missing(run.store) == []
    assert run.measure(compact_every=4).run_id is None
    assert list(verify(run.store.at(), quick=False, progress=Silent())) == []
