"""Scores of checkpoints on measured snapshots."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import torch

from mctrace.analysis.questions.catalogue import run_analysis
from mctrace.analysis.report.sections.checkpoint_comparison import checkpoint_section, paired_differences
from mctrace.analysis.report.sections.scorer_agreement import scorer_section
from mctrace.analysis.snapshots.planned_edits import planned_edits
from mctrace.analysis.snapshots.scoring import open_checkpoints, score_snapshots, scorer_agreement
from mctrace.analysis.snapshots.view import read_snapshots
from mctrace.context.allocator import AllocatorConfig
from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from mctrace.train.inference import score
from tests.analysis.synthetic import write_checkpoint

Connection = duckdb.DuckDBPyConnection
IDS = ["trajectory-a:64", "trajectory-b:64", "trajectory-b:68"]


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    return [write_checkpoint(tmp_path / name / "best", seed) for seed, name in enumerate(("first", "second"))]


def test_scores_are_those_of_a_training_batch(store: Store, connection: Connection, checkpoints) -> None:
    (scorer,) = open_checkpoints(checkpoints[:1])
    views = read_snapshots(connection, store.at(), IDS, with_text=False)
    found = score_snapshots(store.at(), views, [scorer])
    data = open_training_data(store.at(), "literal", 1.0)
    labelled = {s.snapshot_id: s for split in data.splits.values() for s in split}
    assert set(labelled) == set(IDS)
    num_checked = 0
    for view in found:
        scores_N = score(scorer.network, make_batch(data, [labelled[view.snapshot_id]]), signed=True)[0]
        assert torch.count_nonzero(scores_N)
        for action in view.actions:
            first = view.lod_map.entries.index_of_token(action.first_token)
            width = 1 if action.action.kind == "expand" else 4
            assert action.scores["first"] == pytest.approx(
                float(scores_N[first : first + width].mean()), abs=1e-6
            )
            num_checked += 1
    assert num_checked == 12 + 12 + 13


def test_values_are_priced_by_the_actions_that_a_snapshot_has(
    store: Store, connection: Connection, tmp_path
) -> None:
    (scorer,) = open_checkpoints([write_checkpoint(tmp_path / "values" / "best", target="value")])
    views = read_snapshots(connection, store.at(), IDS, with_text=False)
    protected = [dataclasses.replace(view, protected_tail=12) for view in views]
    free = [dataclasses.replace(view, protected_tail=0) for view in views]
    prices = []
    for some in (views, protected, free):
        found = score_snapshots(store.at(), some, [scorer])
        prices.append([one.actions[0].scores["values"] for one in found])
    assert {view.protected_tail for view in views} != {12}
    assert prices[1] != prices[2]
    one = score_snapshots(store.at(), views, [scorer])[0]
    edits = planned_edits(
        one, 0.25, AllocatorConfig(expand_threshold=0, collapse_threshold=0, reversal_threshold=0)
    )
    assert set(edits) == {found.action for found in one.actions}


def test_checkpoints_of_one_name_are_named_by_their_folders(tmp_path: Path) -> None:
    folders = [write_checkpoint(tmp_path / name / "run" / "best") for name in ("one", "two")]
    assert [scorer.name for scorer in open_checkpoints(folders)] == [str(folder) for folder in folders]
    assert open_checkpoints(folders[:1])[0].name == "run"


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"gist_hash": "other"}, "GistNet"), ({"model_hash": "other"}, "base model")],
)
def test_a_checkpoint_of_other_labels_is_refused(
    store: Store, connection: Connection, tmp_path: Path, changes, what: str
) -> None:
    (scorer,) = open_checkpoints([write_checkpoint(tmp_path / "best", **changes)])
    views = read_snapshots(connection, store.at(), IDS[:1], with_text=False)
    with pytest.raises(InputError, match=f"trained on labels of another {what}"):
        score_snapshots(store.at(), views, [scorer])


def test_a_checkpoint_of_a_mixture_scores_each_kind_of_it(
    store: Store, connection: Connection, tmp_path: Path
) -> None:
    (scorer,) = open_checkpoints([write_checkpoint(tmp_path / "best", gist_hash="mean+other")])
    (view,) = read_snapshots(connection, store.at(), IDS[:1], with_text=False)
    (found,) = score_snapshots(store.at(), [view], [scorer])
    assert found.scorers == [scorer.name]
    assert scorer.fits(replace(view, gist_hash="other").provenance)
    assert not scorer.fits(replace(view, gist_hash="third").provenance)


def test_agreement_is_a_rank_correlation_by_document(
    store: Store, connection: Connection, checkpoints
) -> None:
    views = read_snapshots(connection, store.at(), IDS, with_text=False)
    perfect = [
        replace(
            view,
            actions=tuple(
                replace(a, scores={"perfect": v, "reversed": -v})
                for a in view.actions
                for v in [a.measured.value_of_detail if a.measured else 0.0]
            ),
        )
        for view in views
    ]
    rows = scorer_agreement(connection, perfect)
    found = {(row["scorer"], row["scope"]): row for row in rows}
    # b has two labels a snapshot, too few for a ranking, and of a's kinds only level-1 expands have four.
    assert {row["document_id"] for row in rows} == {"document-a"}
    assert found["perfect", "snapshot"]["num_labels"] == 8
    assert found["perfect", "kind"]["num_labels"] == 4
    for scope in ("kind", "snapshot"):
        assert found["perfect", scope]["spearman"] == pytest.approx(1)
        assert found["reversed", scope]["spearman"] == pytest.approx(-1)
    # Values 1/2, 1/4, 1/8..3/8 (mean 1/4), −1/8 with distance falling: ranks 4, 2.5, 2.5, 1.
    ranks, recency = [4, 2.5, 2.5, 1], [1, 2, 3, 4]
    mean = 2.5
    cross = sum((a - mean) * (b - mean) for a, b in zip(ranks, recency, strict=True))
    spread = sum((a - mean) ** 2 for a in ranks) * sum((b - mean) ** 2 for b in recency)
    assert found["recency", "kind"]["spearman"] == pytest.approx(cross / spread**0.5)
    assert not [row for row in rows if row["scorer"] == "attention mass"]


def test_without_scores_the_baselines_are_judged_on_all_labels(connection: Connection) -> None:
    rows = scorer_agreement(connection, [])
    assert {row["scorer"] for row in rows} == {"recency"}


def test_the_scorer_section_shows_the_ceiling(connection: Connection) -> None:
    ceilings = run_analysis(connection, "rank_stability", half_horizon=16)
    section = scorer_section(scorer_agreement(connection, []), ceilings, "Judged on all.")
    kind = section.plots[0].figure["data"]
    assert kind[1]["x"] == pytest.approx([0.8])
    assert [row[1] for row in section.tables[0].rows] == [
        "recency", "recency", "a neighbouring stretch", "a neighbouring stretch",
    ]  # fmt: skip


def test_differences_are_paired_by_document() -> None:
    rows = [
        {"scope": "kind", "scorer": scorer, "document_id": document, "spearman": spearman}
        for scorer, document, spearman in [
            ("x", "1", 0.5), ("y", "1", 0.25), ("x", "2", 0.0), ("y", "2", 0.5), ("x", "3", 1.0),
            ("z", "3", 1.0),
        ]
    ]  # fmt: skip
    assert paired_differences(rows, "kind", "x", "y") == {"1": 0.25, "2": -0.5}
    assert paired_differences(rows, "snapshot", "x", "y") == {}


def test_two_checkpoints_have_a_section_of_their_own(
    store: Store, connection: Connection, checkpoints
) -> None:
    scorers = open_checkpoints(checkpoints)
    views = score_snapshots(store.at(), read_snapshots(connection, store.at(), IDS, with_text=False), scorers)
    section = checkpoint_section(*scorers, scorer_agreement(connection, views), views, "Judged on three.")
    assert section.title == "first and second"
    assert [plot.title for plot in section.plots] == [
        f"Score against measured value: {kind}"
        for kind in ("expand, level 1", "expand, level 2", "collapse, level 0", "collapse, level 1")
    ]
    assert [len(trace["x"]) for trace in section.plots[0].figure["data"]] == [8, 8]
    differences, descriptions = section.tables
    assert [row[3] for row in differences.rows] == ["1", "1"]
    assert ["Target", "priced", "priced"] in descriptions.rows
    other = replace(scorers[1], info=replace(scorers[1].info, target="literal"))
    assert "different targets" in checkpoint_section(scorers[0], other, [], views, "").notes[0]
