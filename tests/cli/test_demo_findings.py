"""The demo's last lines claim what its own numbers hold, and no more."""

import json
from pathlib import Path

import pytest

from mctrace.cli.demo_findings import findings


def interval(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "num_documents": 5}


def run_with(folder: Path, lensnet: dict[str, float], gain: dict[str, float]) -> Path:
    run = folder / "lensnet"
    run.mkdir()
    scorers = {"lensnet": lensnet, "noise": interval(0.0, 0.1), "recency": interval(0.2, 0.1)}
    evaluation = {"scorers": {name: {"utility_correlation": one} for name, one in scorers.items()}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    gains = {"recency": interval(0, 0), "told": interval(0.5, 0.1), "lensnet": gain}
    policies = {name: {"less_than_recency": one} for name, one in gains.items()}
    (run / "closed_loop.json").write_text(json.dumps({"groups": {"recall:stdlib": policies}}))
    return run


@pytest.mark.parametrize(
    ("lensnet", "gain", "words"),
    [
        (interval(0.5, 0.1), interval(0.2, 0.1), ["better than noise and recency", "better than truncation"]),
        (
            interval(0.25, 0.1),
            interval(0.0, 0.1),
            ["clearly better than noise,", "too few documents", "told +0.50"],
        ),
        (interval(0.15, 0.1), interval(-0.2, 0.1), ["better than chance", "are worse than truncation"]),
        (interval(0.05, 0.1), interval(0.45, 0.1), ["not clearly better than noise"]),
    ],
)
def test_the_claim_follows_from_the_intervals(tmp_path, lensnet, gain, words):
    agreement, loop, claim = findings(run_with(tmp_path, lensnet, gain))
    assert "recency 0.20 [0.10, 0.30]" in agreement
    assert "5 held-out documents" in loop
    for said in words:
        assert said in claim
    assert ("told" in claim) == (gain["high"] < 0.4)
