"""Windowed runs: calibrated before, audited during, planned as exact where they would not be good enough."""

import dataclasses
import json
from collections import Counter

import pytest

from mctrace.cli.app import app
from mctrace.collect.measuring.estimator_agreement import EstimatorAgreement
from mctrace.collect.planning.estimators import EXACT
from mctrace.collect.running.calibration import (
    _calibration_items,
    calibration_id,
    choose_estimator,
)
from mctrace.collect.workers.worker import Worker
from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.upkeep.compaction import compact
from mctrace.progress import Silent
from tests.collect.runs import tiny_run

WINDOWED = {"collect.estimator": "windowed", "collect.estimator_window": 2, "corpus.limit": 4}


def effects(run):
    rows = fetch_rows(connect(run.store.at()), "from effects where action <> 'drop'")
    return {
        (r["trajectory_id"], r["action"], r["node_level"], r["node_index"], r["estimator"]): r for r in rows
    }


def all_effects(run):
    return fetch_rows(connect(run.store.at()), "select trajectory_id from effects")


def run_rows(run):
    return fetch_rows(connect(run.store.at()), "from runs order by started_at")


def test_a_windowed_run_stores_both_measurements_of_audited_actions(tiny_settings, tmp_path):
    changes = {**WINDOWED, "collect.min_audit_spearman": -1.0, "collect.audit_fraction": 0.5}
    run = tiny_run(tiny_settings, tmp_path, **changes)
    summary = run.measure()
    assert summary.checks.estimator.name == "windowed"
    found = effects(run)
    windowed = {key[:4] for key in found if key[4] == "windowed"}
    exact = {key[:4] for key in found if key[4] == "exact"}
    assert exact < windowed
    assert len(exact) == len(summary.pairs)
    assert 0.25 < len(exact) / len(windowed) < 0.75
    assert {row["estimator_window"] for key, row in found.items() if key[4] == "windowed"} == {2}
    (row,) = run_rows(run)
    assert (row["estimator"], row["estimator_window"]) == ("windowed", 2)
    assert row["audit"]["num_actions"] == len(exact)
    assert row["calibration"]["num_actions"] >= 20
    labels = fetch_rows(connect(run.store.at()), "from labels")
    assert {label["estimator"] for label in labels} == {"windowed", "exact"}
    keys = [(r["trajectory_id"], r["cursor"], r["action"], r["node_level"], r["node_index"]) for r in labels]
    assert len(set(keys)) == len(keys), "an audited action is one label, not two"


GRADIENT = {
    "collect.estimator": "gradient", "collect.gradient_segment": 4, "collect.audit_fraction": 0.5,
    "corpus.limit": 4,
}  # fmt: skip


def test_a_gradient_run_is_calibrated_by_action_and_level_and_never_made_exact(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **GRADIENT, **{"collect.min_audit_spearman": 1.0})
    summary = run.measure()
    assert summary.checks.estimator.name == "gradient"
    found = effects(run)
    estimated = {key[:4] for key in found if key[4] == "gradient"}
    assert {key[:4] for key in found if key[4] == "exact"} < estimated
    (row,) = run_rows(run)
    assert (row["estimator"], row["audit"]["num_actions"]) == ("gradient", len(summary.pairs))
    strata = {(s["action"], s["node_level"]): s for s in row["calibration_strata"]}
    assert sum(s["num_actions"] for s in strata.values()) == row["calibration"]["num_actions"] >= 20
    assert all(-1 <= s["pearson"] <= 1 for s in strata.values() if s["pearson"] is not None)
    assert any(s["pearson"] is not None for s in strata.values())
    assert run.measure().run_id is None, "the same command finds everything done"


def test_labels_of_gradient_estimates_are_read_at_multiples_of_the_segment_only(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **GRADIENT)
    run.measure()
    connection = connect(run.store.at())
    shorter = fetch_rows(connection, "from labels_at(4) where estimator = 'gradient'")
    assert shorter
    assert {row["stderr"] for row in shorter} == {None}
    whole = fetch_rows(connection, "from labels where estimator = 'gradient'")
    assert len(whole) == len(shorter)
    with pytest.raises(Exception, match="collect with gradient_segment"):
        fetch_rows(connection, "select sum(delta_nll) as s from labels_at(3)")
    assert {row["estimator"] for row in fetch_rows(connection, "from labels")} == {"exact", "gradient"}
    held = fetch_rows(connection, "select sum(len(delta_nll)) as n from token_effects")
    labels = fetch_rows(connection, "select sum(horizon) as n from labels where estimator = 'exact'")
    assert held == labels, "a mean of a stretch is no effect of a token"


def test_audited_actions_are_what_an_exact_run_measures(tiny_settings, tmp_path):
    windowed = tiny_run(
        tiny_settings, tmp_path / "w",
        **WINDOWED, **{"collect.min_audit_spearman": -1.0, "collect.audit_fraction": 0.5},
    )  # fmt: skip
    windowed.measure()
    exact = tiny_run(tiny_settings, tmp_path / "e", **{"corpus.limit": 4})
    exact.measure()
    places = {
        p.part_id: (p.document_id, p.trajectory.cursors) for r in (windowed, exact) for p in r.plan.units
    }
    expected = {(*places[key[0]], *key[1:4]): row["delta_nll"] for key, row in effects(exact).items()}
    audited = {
        (*places[key[0]], *key[1:4]): row["delta_nll"]
        for key, row in effects(windowed).items()
        if key[4] == "exact"
    }
    assert audited
    for key, delta_nll in audited.items():
        assert delta_nll == pytest.approx(expected[key], abs=1e-4)


def test_below_the_threshold_the_run_is_exact_and_resumes_without_calibrating_again(
    tiny_settings, tmp_path, monkeypatch
):
    run = tiny_run(tiny_settings, tmp_path, **{**WINDOWED, "collect.min_audit_spearman": 1.0})
    summary = run.measure()
    assert summary.checks.estimator == EXACT
    assert summary.checks.calibration.spearman < 1.0
    assert {key[4] for key in effects(run)} == {"exact"}
    (row,) = run_rows(run)
    assert (row["estimator"], row["estimator_window"], row["audit"]) == ("exact", None, None)
    assert row["calibration"]["spearman"] == pytest.approx(summary.checks.calibration.spearman)
    plain = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    assert plain.plan.missing(run.store) == [], "the same parts as a run that was asked to be exact"

    def no_worker(*_: object) -> None:
        raise AssertionError("there is nothing to measure")

    monkeypatch.setattr(Worker, "measure", no_worker)
    assert run.measure().run_id is None


def test_a_calibration_holds_for_settings_not_for_a_corpus(tiny_settings, tmp_path):
    def identity(**changes):
        run = tiny_run(tiny_settings, tmp_path, **{**WINDOWED, **changes})
        return calibration_id(run.plan, run.config.collect)

    assert identity() == identity(**{"corpus.limit": 6}) == identity(**{"collect.audit_fraction": 0.5})
    assert identity() != identity(**{"collect.estimator_window": 3})
    assert identity() != identity(**{"collect.protected_tail": 24})
    assert identity() != identity(**{"model.dtype": "bfloat16"})


def test_a_corpus_that_grows_keeps_its_estimator_and_measures_only_what_is_new(tiny_settings, tmp_path):
    changes = {**WINDOWED, "collect.min_audit_spearman": 1.0}
    tiny_run(tiny_settings, tmp_path, **changes).measure()
    larger = tiny_run(tiny_settings, tmp_path, **{**changes, "corpus.limit": 6})
    summary = larger.measure()
    first = {p.document_id for p in tiny_run(tiny_settings, tmp_path, **changes).plan.units}
    new = [p for p in larger.plan.units if p.document_id not in first]
    assert summary.num_measured == len(new) > 0
    labels = fetch_rows(
        connect(larger.store.at()),
        "select count(*) as n, count(distinct (document_id, policy, cursor, action, node_level, node_index)) "
        "as kinds from labels",
    )
    assert labels[0]["n"] == labels[0]["kinds"]


def test_a_calibration_draws_evenly_over_actions_and_levels(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{**WINDOWED, "corpus.limit": 12})
    items = _calibration_items(run.plan, 100)
    drawn = Counter((a.action.kind, a.action.node.level) for i in items for a in i.unit.actions)
    there = Counter((a.action.kind, a.action.node.level) for p in run.plan.units for a in p.actions)
    assert drawn.keys() == there.keys()
    assert sum(drawn.values()) == 100
    share = 100 // len(there)
    for stratum, count in there.items():
        assert drawn[stratum] >= min(share, count)
    assert all(i.unit.audited == tuple(range(len(i.unit.actions))) for i in items)
    assert len(items) >= 8


def test_what_is_forecast_counted_and_logged_are_the_same_effects(tiny_settings, tmp_path, capsys):
    changes = {
        **WINDOWED, "collect.min_audit_spearman": -1.0, "collect.audit_fraction": 0.3,
        "collect.drop_controls": True, "collect.joint_edits": 2,
    }  # fmt: skip
    run = tiny_run(tiny_settings, tmp_path, **changes)
    summary = run.measure()
    assert summary.predicted.num_effects == summary.num_effects == len(all_effects(run))
    assert summary.predicted.work.num_recomputed == summary.num_tokens_run
    app(["log", "--store", run.store.location.uri], standalone_mode=False)
    logged = capsys.readouterr().out
    assert f"{summary.num_effects} effects" in logged
    compact(run.store, Silent())
    app(["log", "--store", run.store.location.uri], standalone_mode=False)
    counts = [line for line in logged.splitlines() if " effects" in line]
    assert counts == [line for line in capsys.readouterr().out.splitlines() if " effects" in line]


def test_a_window_as_long_as_the_context_is_in_perfect_agreement(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{**WINDOWED, "collect.estimator_window": 4096})
    assert run.plan.is_windowed
    summary = run.measure()
    assert dataclasses.replace(summary.checks.calibration, strata=()) == EstimatorAgreement(
        summary.checks.calibration.num_actions, 1.0, 1.0, 1.0, 0.0
    )


@pytest.mark.parametrize(
    ("spearman", "is_windowed"), [(0.95, True), (0.9, True), (0.89, False), (None, False)]
)
def test_the_decision(tiny_settings, tmp_path, spearman, is_windowed):
    run = tiny_run(tiny_settings, tmp_path, **WINDOWED)
    calibration = EstimatorAgreement(100, spearman, 1.0, 1.0, 0.0)
    assert choose_estimator(run.plan, calibration, 0.9).is_windowed == is_windowed


def test_every_run_stores_its_noise_floor(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    run.measure()
    (row,) = run_rows(run)
    assert 0 <= row["noise_floor"]["no_op"] < 1e-4
    assert 0 <= row["noise_floor"]["regrouped"] < 1e-4
    half = tiny_run(tiny_settings, tmp_path / "half", **{"corpus.limit": 4, "model.dtype": "bfloat16"})
    half.measure()
    (row,) = run_rows(half)
    assert max(row["noise_floor"].values()) > 1e-4


def test_the_log_shows_what_a_run_found_out(tiny_settings, tmp_path, capsys):
    changes = {**WINDOWED, "collect.min_audit_spearman": -1.0, "collect.audit_fraction": 0.5}
    run = tiny_run(tiny_settings, tmp_path, **changes)
    run.measure()
    app(["log", "--store", run.store.location.uri], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "windowed (window 2)" in shown
    assert "noise floor of a label" in shown
    for name in ("calibration", "audit"):
        assert f"{name} of windowed against exact on" in shown
    assert "Spearman" in shown


def test_side_measurements_are_added_later_without_measuring_a_label_again(tiny_settings, tmp_path):
    plain = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    plain.measure()
    before = plain.labels()
    changes = {
        "corpus.limit": 4, "collect.drop_controls": True, "collect.joint_edits": 3, "collect.joint_size": 2,
        "collect.attention_mass": True,
    }  # fmt: skip
    run = tiny_run(tiny_settings, tmp_path, **changes)
    missing = run.plan.missing(run.store)
    assert {planned.kind for planned in missing} == {"drops", "joints", "attention"}
    run.measure()
    assert run.labels() == before
    connection = connect(run.store.at())
    labels = fetch_rows(connection, "from labels")
    assert all(0 < label["attention_mass"] < 1 for label in labels)
    controls = fetch_rows(connection, "from controls")
    assert len(controls) > 0.8 * len(labels)
    joints = fetch_rows(connection, "from joint_edits")
    assert {row["num_actions"] for row in joints} == {2}
    singles = fetch_rows(
        connection,
        "select j.joint_id, j.cursor, any_value(j.sum_of_singles) as kept, sum(l.delta_nll) as added_up "
        "from (select *, unnest(actions) as one from joint_edits) as j join labels as l "
        "on l.trajectory_id = j.trajectory_id and l.cursor = j.cursor and l.action = one.action "
        "and l.node_level = one.node_level and l.node_index = one.node_index group by all",
    )
    assert len(singles) == len(joints)
    for row in singles:
        assert row["kept"] == pytest.approx(row["added_up"], abs=1e-5)
    more = tiny_run(tiny_settings, tmp_path, **{**changes, "collect.joint_edits": 5})
    assert {planned.kind for planned in more.plan.missing(more.store)} == {"joints"}
    more.measure()
    again = fetch_rows(connect(run.store.at()), "from joint_edits")
    assert len({(row["joint_id"], row["cursor"]) for row in again}) == len(again) > len(joints)


def test_a_side_measurement_waits_for_its_trajectory(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4, "collect.drop_controls": True})

    class Backwards(InProcessPool):
        """Finishes drops before the labels they belong to, as a quicker actor would."""

        def measure(self, items):
            return map(self._worker.measure, reversed(list(items)))

    commits = []
    commit = run.store.commit

    class Watched:
        def __getattr__(self, name):
            return getattr(run.store, name)

        def commit(self, parts):
            commits.extend(part.kind for part in parts)
            return commit(parts)

    watched = dataclasses.replace(run, store=Watched())
    watched.measure(Backwards)
    for number, kind in enumerate(commits):
        if kind == "drops":
            assert commits[:number].count("trajectory") > commits[:number].count("drops")
    assert run.plan.missing(run.store) == []


def test_a_trajectory_without_a_finite_loss_is_kept_and_counted(tiny_settings, tmp_path, monkeypatch):
    run = tiny_run(tiny_settings, tmp_path, **{"corpus.limit": 4})
    poisoned = run.plan.units[0].part_id

    class Poisoned(InProcessPool):
        def measure(self, items):
            for item in items:
                tree = self._worker._document_tree(item.document)
                if item.unit.part_id == poisoned and item.purpose == "keep":
                    table = tree.embeddings[0].clone()
                    tree = dataclasses.replace(tree, embeddings=[table * float("nan"), *tree.embeddings[1:]])
                    self._worker._tree = (item.document.document_id, tree)
                yield self._worker.measure(item)
                self._worker._tree = None

    summary = run.measure(Poisoned)
    assert summary.num_not_finite == 1
    rows = fetch_rows(
        connect(run.store.at()), "select trajectory_id, baseline_status, baseline_nll from trajectories"
    )
    assert [(r["trajectory_id"], r["baseline_nll"]) for r in rows if r["baseline_status"] != "ok"] == [
        (poisoned, None)
    ]
    assert run.plan.missing(run.store) == []


def test_a_plan_reports_the_cost_of_calibration_and_an_earlier_result(tiny_settings, tmp_path, capsys):
    changes = {**tiny_settings, **WINDOWED, "collect.min_audit_spearman": 1.0}
    store = str(tmp_path / "store")
    flags = [f"--set={key}={_toml(value)}" for key, value in changes.items()]
    app(["plan", "--store", store, *flags], standalone_mode=False)
    assert "TFLOP of calibration" in capsys.readouterr().out
    app(["collect", "--no-ray", "--store", store, *flags], standalone_mode=False)
    collected = capsys.readouterr().out
    assert "rank correlation" in collected
    assert "measured exactly instead" in collected
    app(["plan", "--store", store, *flags], standalone_mode=False)
    planned = capsys.readouterr().out
    assert "Measured exactly: an earlier calibration" in planned
    assert "Nothing to measure" in planned


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)
