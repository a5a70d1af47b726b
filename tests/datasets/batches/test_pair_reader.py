"""Pairs of variants: which are chosen, and what they become."""

import numpy as np
import pytest

from mctrace.datasets.batches.collate_pairs import make_pair_batch
from mctrace.datasets.batches.pair_reader import open_preference_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.errors import InputError
from tests.train.stores import learnable_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return learnable_store(tmp_path_factory.mktemp("pairs") / "store", num_documents=5, num_variants=3)


def open_pairs(store, max_pairs=100, hard_negative_share=1.0, where=""):
    return open_preference_data(
        store.at(), max_pairs=max_pairs, hard_negative_share=hard_negative_share, where=where
    )


def chosen(data):
    return {
        (other.snapshot_id, comparison.variant.snapshot_id): comparison.variant.adv_delta - other.adv_delta
        for comparisons in data.splits.values()
        for comparison in comparisons
        for other in comparison.others
    }


def all_pairs(store):
    rows = fetch_rows(connect(store.at()), "from preference_pairs")
    return {(r["better_snapshot_id"], r["worse_snapshot_id"]): r for r in rows}


def test_every_pair_of_the_view_is_there_when_none_is_left_out(store):
    expected = all_pairs(store)
    found = chosen(open_pairs(store))
    assert found.keys() == expected.keys()
    for names, strength in found.items():
        assert strength == pytest.approx(expected[names]["strength"])
        assert strength > 0


def test_the_cap_keeps_comparisons_with_the_best_first_then_the_hardest(store):
    pairs = all_pairs(store)
    found = chosen(open_pairs(store, max_pairs=4))
    for group in {row["variant_group_id"] for row in pairs.values()}:
        rows = {names: row for names, row in pairs.items() if row["variant_group_id"] == group}
        best = min(row["better_adv_delta"] for row in rows.values())
        order = sorted(rows, key=lambda n: (rows[n]["better_adv_delta"] != best, -rows[n]["strength"]))
        assert {names for names in found if names in rows} == set(order[:4])


def test_the_hard_negative_filter_spares_comparisons_with_the_best(store):
    pairs = all_pairs(store)
    found = chosen(open_pairs(store, hard_negative_share=0.0))
    assert len(found) < len(pairs)
    for names in found:
        group = pairs[names]["variant_group_id"]
        best = min(r["better_adv_delta"] for r in pairs.values() if r["variant_group_id"] == group)
        assert pairs[names]["better_adv_delta"] == best


def test_a_condition_chooses_pairs(store):
    found = chosen(open_pairs(store, where="strength > 0.1 -- only clear ones"))
    assert 0 < len(found) < len(chosen(open_pairs(store)))
    assert min(found.values()) > 0.1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no_such_column > 1", "no_such_column"),
        ("true) ; drop view labels; select (true", "expected one SQL condition|does not parse"),
        ("strength > 1e9", "no pair of variants that meets the condition"),
    ],
)
def test_a_condition_that_cannot_be_used_says_so(store, where, message):
    with pytest.raises(InputError, match=message):
        open_pairs(store, where=where)


def test_a_store_without_variants_says_how_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"collect\.num_random_variants"):
        open_pairs(learnable_store(tmp_path / "store", num_documents=5))


def test_a_batch_holds_each_context_once_and_a_move_per_pair(store):
    data = open_pairs(store)
    comparisons = data.comparisons("train")
    batch = make_pair_batch(data, comparisons)
    assert len(batch.contexts) == len(comparisons)
    assert len(batch) == sum(len(c.others) for c in comparisons)
    assert (batch.change < 0).all()
    assert not batch.contexts.action_mask.any()
    for p, row in enumerate(batch.row.tolist()):
        comparison = comparisons[row]
        adv_delta = pytest.approx(float(batch.to_adv_delta[p]))
        other = next(c for c in comparison.others if c.adv_delta == adv_delta)
        entries, levels = comparison.variant.lod_map.entries, other.lod_map.levels
        wanted = np.sign(entries.level_N - levels[entries.first_token_N // 4].astype(int))
        assert batch.direction[p, : len(entries)].tolist() == wanted.tolist()
        assert (batch.direction[p, len(entries) :] == 0).all()
