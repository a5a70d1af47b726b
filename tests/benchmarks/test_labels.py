"""The labels benchmark: its figures against their definitions, and equal compute at toy size."""

import numpy as np
import pytest

from benchmarks.equal_compute import ARMS, Prices, Setting, equal_compute
from benchmarks.evaluator_cases import TREE, Case
from benchmarks.exact_floor import exact_floor, policies_share, shared_by
from benchmarks.labels_fidelity import SCREENED_SHARE, rows_of, screening_recall, top_recall, top_tenth
from benchmarks.labels_page import page
from mctrace.collect.planning.action_sampling import screening_probabilities, systematic_sample
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory

SECONDS = {"gradient": 1.0, "exact": 10.0, "windowed 128": 4.0, "screened": 3.5, "naive": 20.0}


def test_screening_finds_in_expectation_what_seeded_samples_find():
    generator = np.random.default_rng(0)
    exact_A = generator.standard_t(3, 60)
    estimate_A = 0.3 * exact_A + generator.normal(0, 0.5, 60)
    inclusion_A = screening_probabilities(np.abs(estimate_A), round(SCREENED_SHARE * 60))
    top = top_tenth(exact_A)
    found = [len(top & set(systematic_sample(inclusion_A, generator).tolist())) / 6 for _ in range(3000)]
    assert screening_recall(exact_A, estimate_A) == pytest.approx(np.mean(found), abs=0.015)
    assert screening_recall(exact_A, exact_A) > screening_recall(exact_A, estimate_A)
    assert screening_recall(exact_A, np.ones(60)) == pytest.approx(SCREENED_SHARE)
    assert top_recall(exact_A, -2 * exact_A) == 1.0


def context(number: int, slope: float) -> dict:
    exact = np.random.default_rng(number).normal(size=40)
    labels = {"exact": exact, "gradient": slope * exact, "screened": slope * exact}
    return {"map": "level0", "N": 1024, "R": 1, "document": number, "num_actions": 40, "num_legal": 40,
            "seconds": {"exact": 10.0 * number, "gradient": 1.0, "screened": 3.0},
            "labels": {name: values.tolist() for name, values in labels.items()}}  # fmt: skip


def test_rows_pool_documents_and_keep_them_apart():
    rows = {row["estimator"]: row for row in rows_of([context(1, 2.0), context(2, 0.1)])}
    gradient = rows["gradient"]
    assert (gradient["num_actions"], gradient["num_documents"]) == (80, 2)
    assert gradient["cost_over_exact"] == pytest.approx(2 / 30)
    assert gradient["spearman"] == pytest.approx(1.0)
    assert gradient["spearman_range"] == pytest.approx([1.0, 1.0])
    assert 0.5 < gradient["pooled_spearman"] < 0.99, "a scale of its own in each document costs ranks"
    assert gradient["top_tenth_per_exact_cost"] == pytest.approx(15.0)
    text = page({"machine": {"device": "x", "threads": 1, "torch": "y"}, "estimators": list(rows.values())})
    assert "| 1,024 | 1 | gradient | 0.0667 | 1.00 |" in text
    assert "There are no results yet" in page(None)


def test_maps_share_what_precedes_their_first_difference():
    whole = LODMap.of_tokens(TREE, 0, 512)
    one = Trajectory(whole, (512,), 128)
    assert shared_by(one, one) == pytest.approx(0.5)
    first, last = (Trajectory(whole.with_level(slice(i, i + 1), 1), (512,), 128) for i in (0, 11))
    assert shared_by(one, first) == 0.0
    assert 0.0 < shared_by(one, last) < 0.5
    assert 0.0 <= policies_share(1024)["mean"] <= policies_share(1024)["most"] < 0.5


def test_the_baseline_matters_less_the_more_actions_there_are():
    short, long = (
        exact_floor(Case("level0", n, 1), lambda work: work.num_recomputed, 8192) for n in (512, 2048)
    )
    assert long["baseline_share"] < short["baseline_share"] < 0.2
    assert 1.0 < short["naive_over_exact_work"] < long["naive_over_exact_work"] < 2.0
    assert 0.0 <= long["padding_share"] < 0.1


def test_no_arm_buys_more_than_the_budget():
    prices = Prices(SECONDS, 28)
    for arm in ARMS:
        number = prices.num_documents(arm, 100)
        spent = prices.of_calibration(arm) + number * prices.of_document(arm)
        assert spent <= 1000.0 < spent + 2 * prices.of_document(arm)
    assert prices.num_documents("dense", 100) > prices.num_documents("exact", 100) == 100
    assert prices.num_documents("naive", 100) == 50


@pytest.mark.slow
def test_equal_compute_at_toy_size(tiny_settings, tmp_path, call_mctrace):
    def mctrace(*arguments: str) -> None:
        code, _, errors = call_mctrace(*arguments)
        assert code == 0, errors

    further = {key: value for key, value in tiny_settings.items() if key.startswith("tree.")}
    further |= {"collect.protected_tail": 8, "corpus.validation_fraction": 0.3, "corpus.test_fraction": 0.3}
    setting = Setting(
        num_tokens=96, num_exact=4, num_held_out=8, seeds=2, steps=4, arms=("naive", "exact", "dense"),
        model=tiny_settings["model.name"], corpus=tiny_settings["corpus.paths"], horizon=16, further=further,
    )  # fmt: skip
    prices = Prices({"gradient": 0.2, "exact": 1.0, "naive": 3.0}, 1000)
    found = equal_compute(setting, prices, tmp_path / "labels", mctrace)
    rows = {row["estimator"]: row for row in found["equal_compute"]}
    assert rows.keys() == {"exact", "dense"}
    assert found["left_out"] == {"naive": 1}
    assert all(0.0 <= row["low"] <= row["ranking_accuracy"] <= row["high"] <= 1.0 for row in rows.values())
    assert {row["num_held_out"] for row in rows.values()} == {8}
    (gap,) = found["differences"]
    assert gap["mean"] == pytest.approx(rows["dense"]["ranking_accuracy"] - rows["exact"]["ranking_accuracy"])
    again = equal_compute(setting, prices, tmp_path / "labels", mctrace)
    assert again["equal_compute"] == found["equal_compute"], "finished stores and runs stay"
    about = {"machine": {"device": "x", "threads": 1, "torch": "y"}}
    assert "| dense |" in page(about | found)
