"""Committed results and pages of the experiments belong together, and results stay small."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import (
    closed_loop,
    closed_loop_page,
    learned_price,
    learned_price_page,
    preferences,
    preferences_page,
    residuals,
    residuals_page,
    train_compare,
    train_compare_page,
)
from experiments.result_files import RESULTS, interval, write_results
from mctrace.analysis.closed_loop.summary import as_json, summarise

ROOT = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize(
    ("name", "result", "page"),
    [
        ("CLOSED_LOOP.md", closed_loop.RESULT, closed_loop_page.page),
        ("LEARNED_PRICE.md", learned_price.RESULT, learned_price_page.page),
        ("PREFERENCES.md", preferences.RESULT, preferences_page.page),
        ("RESIDUALS.md", residuals.RESULT, residuals_page.page),
        ("TRAINING.md", train_compare.RESULT, train_compare_page.page),
    ],
)
def test_a_page_is_what_its_results_make(name: str, result: Path, page: Any) -> None:
    assert page(json.loads(result.read_text())) == (ROOT / name).read_text()


def test_results_are_summaries_that_somebody_can_read() -> None:
    for file in RESULTS.glob("*.json"):
        lines = file.read_text().splitlines()
        assert len(lines) < 1000, file.name
        assert max(map(len, lines)) < 1500, file.name


def row(document: str, policy: str, losses: list[float]) -> dict[str, Any]:
    steps = [
        {"nll": loss, "nll_horizon": loss, "num_edits": 3, "num_forced": 1, "num_entries": 30, "kept": None,
         "seconds": 0.25}
        for loss in losses
    ]  # fmt: skip
    return {"document_id": document, "policy": policy, "source": "a/x", "refocuses": steps}


def test_a_summary_keeps_what_the_page_shows(tmp_path: Path) -> None:
    policies = {"recency": 4.0, "hindsight": 1.0, closed_loop.LEADER: 2.0}
    rows = [row(d, name, [loss, loss + i]) for name, loss in policies.items() for i, d in enumerate("xy")]
    groups = as_json(summarise(rows, budget=40, seed=0, block_size=4, horizon=8))
    answer = {
        "split": "test", "corpus": ["a"], "model": {}, "gists": {}, "block_size": 4, "closed_loop": {},
        "allocator": {}, "checkpoints": ["left out"], "groups": groups,
    }  # fmt: skip
    write_results(tmp_path / "result.json", closed_loop.summary(answer))
    kept = json.loads((tmp_path / "result.json").read_text())
    assert "checkpoints" not in kept
    assert kept["groups"]["a"]["num_documents"] == 2
    leader = kept["groups"]["a"]["policies"][closed_loop.LEADER]
    assert leader["less_than_recency"] == [2.0, 2.0, 2.0]
    assert leader["less_than_others"] == {"hindsight": [-1.0, -1.0, -1.0]}
    assert "less_than_others" not in kept["groups"]["a"]["policies"]["recency"]


def test_numbers_keep_ten_digits_and_short_values_one_line(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = {"third": 1 / 3, "none": interval(None), "many": [{"name": "x" * 300}] * 2, "yes": True}
    write_results(file, result)
    assert file.read_text().splitlines()[1] == ' "third": 0.3333333333,'
    assert json.loads(file.read_text()) == {**result, "third": 0.3333333333}
    assert len(file.read_text().splitlines()) == 9


def test_the_decision_between_prices_asks_for_everything_that_the_protocol_names() -> None:
    documents = [f"document {i}" for i in range(4)]

    def everywhere(value: float) -> dict[str, float]:
        return dict.fromkeys(documents, value)

    def decided(learned: float, gain: float, loss: float) -> str:
        names = {**dict.fromkeys(learned_price.TARGETS, 0.3), "value_and_price": learned}
        held_out = {metric: {n: everywhere(v) for n, v in names.items()} for metric in learned_price.METRICS}
        gains = {"value": everywhere(0.1), "value_and_price": everywhere(gain)}
        losses = {"recency": everywhere(3.0), "value": everywhere(2.5), "value_and_price": everywhere(loss)}
        decision: str = learned_price.judged(held_out, gains, {"all": losses})["decision"]
        return decision

    assert decided(learned=0.29, gain=0.095, loss=2.51) == "value_and_price"
    assert decided(learned=0.27, gain=0.095, loss=2.51) == "value"
    assert decided(learned=0.29, gain=0.085, loss=2.51) == "value"
    assert decided(learned=0.29, gain=0.095, loss=2.53) == "value"


def test_a_residual_replaces_squares_only_where_it_is_clearly_better_and_loses_nothing() -> None:
    documents = [f"document {i}" for i in range(4)]

    def decided(correlation: float, ranking: float, gain: float) -> str:
        def against_squares(squares: float, huber: float) -> dict[str, dict[str, float]]:
            return {"squares": dict.fromkeys(documents, squares), "huber": dict.fromkeys(documents, huber)}

        held_out = {
            "utility_correlation": against_squares(0.3, correlation),
            "ranking_accuracy": against_squares(0.6, ranking),
        }
        decision: str = residuals.judged(held_out, against_squares(0.1, gain))["decision"]
        return decision

    assert decided(correlation=0.31, ranking=0.59, gain=0.095) == "huber"
    assert decided(correlation=0.29, ranking=0.61, gain=0.095) == "huber"
    assert decided(correlation=0.31, ranking=0.57, gain=0.095) == "squares"
    assert decided(correlation=0.3, ranking=0.6, gain=0.2) == "squares"
    assert decided(correlation=0.31, ranking=0.61, gain=0.085) == "squares"


def test_preferences_are_negative_from_the_last_change_of_sign() -> None:
    curve = {"step": [1, 2, 3, 4, 5], "preference_corr_mean": [-0.1, 0.2, -0.1, None, -0.2]}
    assert preferences.negative_from(curve) == 5
    assert preferences.negative_from({**curve, "preference_corr_mean": [0.1, -0.2, -0.1, -0.1, 0.2]}) is None
    assert preferences.negative_from({**curve, "preference_corr_mean": [0.1, -0.2, -0.1, -0.1, -0.2]}) == 2
