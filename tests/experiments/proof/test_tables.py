"""From rows to choices, primary comparisons and curves: signs, what counts, and what does not."""

from typing import Any

import pytest

from experiments.proof.choices import Choices, choose
from experiments.proof.document_sets import UNSEEN
from experiments.proof.page import page
from experiments.proof.question_documents import SEEN
from experiments.proof.tables import curves, primary
from mctrace.errors import InputError

GROUPS = {"recall": UNSEEN, "ruler": "niah_single_1", "ordinary": "prose"}
LOSS = {"truncation": 3.0, "bm25-2": 2.5, "similarity": 2.75, "lensnet-0": 2.0, "lensnet-1": 2.25,
        "lensnet-2": 2.5}  # fmt: skip
EXACT = {"truncation": 0.25, "bm25-2": 0.5}


def row(family: str, policy: str, document: str, **others: Any) -> dict[str, Any]:
    found = {
        "family": family, "group": GROUPS[family], "policy": policy, "document": f"{family}-{document}",
        "budget": 512, "window": 4096, "nll": LOSS[policy],
        "exact_match": None if family == "ordinary" else EXACT.get(policy, 0.75),
        "milliseconds": 2.0, "positions": 480, **others,
    }  # fmt: skip
    return {**found, "key": repr(sorted(found.items()))}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [row(family, policy, d) for family in GROUPS for policy in LOSS for d in "abc"]


CHOSEN = Choices({"recall": "bm25-2", "ruler": "similarity", "ordinary": "bm25-2"}, "lensnet-1")


def test_development_documents_choose_the_best_retrieval_and_the_median_network(rows):
    rows = [r for r in rows if (r["family"], r["policy"]) != ("ruler", "bm25-2")]
    rows += [row("ruler", "bm25-2", d, nll=2.9) for d in "abc"]
    # Documents of the seen wording have no say.
    rows += [row("recall", "similarity", d, nll=0.0, group=SEEN) for d in "xyz"]
    found = choose(rows, ("bm25-2", "similarity"), ("lensnet-2", "lensnet-0", "lensnet-1"))
    assert found == CHOSEN


def test_a_family_without_documents_cannot_choose(rows):
    with pytest.raises(InputError, match="no development documents of ruler"):
        choose([r for r in rows if r["family"] != "ruler"], ("bm25-2",), ("lensnet-0",))


def test_choices_are_read_as_they_were_written(tmp_path):
    CHOSEN.write(tmp_path / "choices.json")
    assert Choices.read(tmp_path / "choices.json") == CHOSEN


def test_primary_rows_are_positive_where_lensnet_is_better(rows):
    found = primary(rows, CHOSEN, 512)
    assert [(r["family"], r["against"]) for r in found] == [
        ("recall", "truncation"), ("recall", "bm25-2"), ("ruler", "truncation"), ("ruler", "similarity"),
        ("ordinary", "truncation"), ("ordinary", "bm25-2"),
    ]  # fmt: skip
    assert [r["nll"]["mean"] for r in found] == [0.75, 0.25, 0.75, 0.5, 0.75, 0.25]
    assert [r["nll"]["num_documents"] for r in found] == [3] * 6
    assert [r["exact_match"] and r["exact_match"]["mean"] for r in found] == [0.5, 0.25, 0.5, 0.0, None, None]
    # Ten comparisons, of which no difference varies: Holm's factor of the first is all of them.
    assert min(r["nll"]["p"] for r in found) == pytest.approx(10 * 2 / 10_001)


def test_curves_keep_wordings_apart_and_compare_with_truncation(rows):
    rows += [row("recall", policy, "seen", nll=9.0, group=SEEN) for policy in LOSS]
    rows += [row("ordinary", policy, "a", budget=128) for policy in LOSS]
    found = {(r["family"], r["group"], r["budget"], r["policy"]): r for r in curves(rows, 512)}
    assert found["recall", "all", 512, "lensnet-0"]["gain"] == [1.0, 1.0, 1.0]
    assert found["recall", "all", 512, "lensnet-0"]["documents"] == 3
    assert found["recall", SEEN, 512, "lensnet-0"]["nll"] == [9.0, 9.0, 9.0]
    assert found["ruler", "niah_single_1", 512, "truncation"]["gain"] is None
    assert found["ordinary", "all", 128, "lensnet-2"]["exact_match"] is None
    assert ("ordinary", "prose", 128, "lensnet-2") not in found


def test_the_page_of_a_quick_run_says_that_it_proves_nothing(rows):
    result = {
        "command": "c", "set": "development", "seconds": 60.0, "machine": {"system": "s", "threads": 1},
        "scale": {"name": "quick"}, "primary": primary(rows, CHOSEN, 512), "curves": curves(rows, 512),
    }  # fmt: skip
    assert "These numbers are no proof" in page(result)
    assert "still closed" in page({**result, "scale": {"name": "small"}})
    assert "measured once" in page({**result, "scale": {"name": "small"}, "set": "test"})
    assert "| recall | truncation | 3 | +0.750 [+0.750, +0.750] | 0.002 | +50 [+50, +50] | 0.002 |" in page(
        result
    )
