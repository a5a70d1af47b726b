"""Summaries of closed loops against numbers worked out by hand."""

import numpy as np

from mctrace.analysis.closed_loop.summary import as_json, share_of_gain, summarise


def row(document: str, policy: str, losses: list[float], source: str = "a/x") -> dict:
    steps = [
        {"nll": loss, "nll_horizon": 2 * loss, "num_edits": 3, "num_forced": 1, "num_entries": 30,
         "kept": None if i else 0.5, "seconds": 0.25}
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    return {"document_id": document, "policy": policy, "source": source, "refocuses": steps}


def test_the_table_by_hand():
    rows = [
        row("d1", "recency", [4.0, 2.0]),
        row("d2", "recency", [9.0, 9.0]),
        row("d1", "hindsight", [1.0, 1.0]),
        row("d2", "hindsight", [8.0, 8.0]),
        row("d1", "lens", [2.0, 2.0]),
        row("d2", "lens", [8.5, 8.5]),
        # A document that one policy has not run on is left out.
        row("d3", "recency", [100.0]),
    ]
    (found,) = summarise(rows, budget=40, seed=0, block_size=4, horizon=8).values()
    lens = found["lens"]
    assert lens.nll.mean == 5.25
    assert lens.nll_horizon.mean == 10.5
    assert (lens.less_than_recency.mean, lens.less_than_recency.low) == (0.75, 0.5)
    assert lens.less_than_recency_horizon.mean == 1.5
    assert lens.less_than_recency_later is not None
    assert lens.less_than_recency_later.mean == 2.25  # (8 * 1.5 - 4 * 0.75) / 4
    assert lens.share_of_hindsight is not None
    assert lens.share_of_hindsight.mean == 0.5
    assert found["hindsight"].share_of_hindsight.mean == 1.0
    assert found["recency"].less_than_recency.high == 0.0
    assert set(lens.less_than_others) == {"hindsight"}
    (behind,) = lens.less_than_others.values()
    assert (behind.mean, behind.low, behind.high) == (-0.75, -1.0, -0.5)
    assert (lens.edits, lens.swaps, lens.residency, lens.budget_use, lens.seconds) == (3, 2, 0.5, 0.75, 0.25)
    assert as_json({"all": found})["all"]["lens"]["nll"]["mean"] == 5.25


def test_corpora_are_summarised_apart_and_together():
    rows = [
        row(d, p, [1.0], s) for d, s in (("d1", "a/x"), ("d2", "recall:a/x")) for p in ("recency", "lod0")
    ]
    assert list(summarise(rows, 40, 0, block_size=4, horizon=8)) == ["all", "recall:a", "a"]
    rows += [row(d, p, [1.0], "recall:b/x") for d in ("d3", "d4") for p in ("recency", "lod0")]
    found = summarise(rows, 40, 0, block_size=4, horizon=8)
    assert list(found) == ["all", "all recall", "recall:b", "recall:a", "a"]
    assert [group["lod0"].nll.num_documents for group in found.values()] == [4, 3, 2, 1, 1]
    short = summarise(rows[2:], 40, 0, block_size=4, horizon=4)
    assert list(short) == ["all recall", "recall:b", "recall:a"]
    assert short["recall:a"]["lod0"].less_than_recency_later is None


def test_a_ceiling_that_gains_nothing_has_no_share():
    assert share_of_gain(np.array([0.1, 0.2]), np.array([0.1, -0.2]), seed=0) is None
