"""The experiment on gists keeps what its result file promises, from answers of `mctrace gist evaluate`."""

import json

import numpy as np
import pytest

from experiments import gists
from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.evaluation.evaluation_summary import summarise_evaluation
from mctrace.gists.evaluation.loss_changes import CopyTest, GistSetting, HeldOutDocument, LossChange

SETTING = GistSetting(1, "random", 0.5, 768)


def change(name: str, corpus: str, variant: str, delta: float, copies: float) -> LossChange:
    document = HeldOutDocument(name, corpus, np.zeros(1, dtype=np.int32))
    return LossChange(document, SETTING, variant, {64: 2.0}, {64: delta}, CopyTest(1.0, copies))


def test_results_are_differences_to_deletion_of_all_documents():
    items = []
    for number, corpus in enumerate(["stdlib", "stdlib", "pydoc-topics"]):
        items.append(change(str(number), corpus, "deleted", 0.2, 1.5))
        items.append(change(str(number), corpus, "extract-4", 0.2 - 0.01 * number, 1.4))
    summary = summarise_evaluation(items, GistEvaluationConfig(horizons=(64,)))
    answer = json.loads(json.dumps(summary.to_json()))
    found = gists.results_of([answer])
    extract = found["against_deletion"]["extract-4"]
    assert extract["mean"] == pytest.approx(-0.01)
    assert extract["median"] == pytest.approx(-0.01)
    assert extract["low"] <= extract["mean"] <= extract["high"]
    assert extract["documents"] == 3
    assert set(found["against_deletion"]) == {"extract-4"}
    assert found["copy_against_deletion"]["extract-4"]["mean"] == pytest.approx(-0.1)
    assert found["by_corpus"]["pydoc-topics"]["against_deletion"]["extract-4"]["documents"] == 1
    assert found["deletion"]["all"]["deleted_mean"] == pytest.approx(0.2)
