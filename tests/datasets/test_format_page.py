"""A reader that has nothing but datasets/FORMAT.md recomputes the labels of a store.

Its code blocks run as they stand, with the names of a store, a version and a base model put in.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mctrace.datasets.store.store import open_store
from tests.cli.flags import set_flags
from tests.docs.pages import ROOT, blocks_of

Names = dict[str, Any]


@pytest.fixture(params=["as measured", "compacted"])
def store(request, tmp_path, tiny_settings, call_mctrace, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    settings = {**tiny_settings, "collect.policies": ("recency", "random"), "collect.drop_controls": True}
    code, _, errors = call_mctrace(
        "collect", "--no-ray", "--limit", "4", *set_flags(settings), "--store", "s"
    )
    assert code == 0, errors
    if request.param == "compacted":
        assert call_mctrace("compact", "--store", "s")[0] == 0
    return tmp_path / "s"


@pytest.fixture
def names(store, tiny_model_folder) -> Names:
    """What the page's code defines."""
    found: Names = {}
    page = ROOT / "datasets" / "FORMAT.md"
    for block in blocks_of(page, "python"):
        text = block.text.replace("version=12", f"version={open_store(str(store)).at().version}")
        text = text.replace("STORE", str(store)).replace("MODEL", str(tiny_model_folder))
        exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), found)
    return found


def test_labels_recomputed_from_the_page_alone_are_those_of_the_store(names, store, call_mctrace):
    effects = names["rows"]("trajectory", "effects") + names["rows"]("drops", "effects")
    kinds = {(effect["action"], effect["node_level"]) for effect in effects}
    assert {("collapse", 1), ("collapse", 2), ("expand", 1), ("expand", 2), ("drop", 1)} <= kinds
    chosen = random.Random(0).sample(effects, 60)
    labels = _labels(store, call_mctrace)
    num_compared = 0
    for effect in chosen:
        per_token = names["delta_nll"](effect)
        assert per_token.tolist() == pytest.approx(effect["delta_nll"], abs=1e-4)
        for cursor, value in names["labels"](effect, per_token).items():
            key = (
                effect["trajectory_id"],
                cursor,
                effect["action"],
                effect["node_level"],
                effect["node_index"],
            )
            if effect["action"] != "drop":
                assert value == pytest.approx(labels[key], abs=1e-4)
                num_compared += 1
    assert num_compared > 60


def _labels(
    store: Path, call_mctrace: Callable[..., tuple[int, str, str]]
) -> dict[tuple[object, ...], float]:
    query = "select trajectory_id, cursor, action, node_level, node_index, delta_nll from labels"
    code, out, errors = call_mctrace("sql", "--store", str(store), "--format", "json", query)
    assert code == 0, errors
    return {tuple(row.values())[:-1]: row["delta_nll"] for row in json.loads(out)}
