"""Shadow price against a search over all prices, and its effect on the allocator's choice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.context.actions import ActionArrays
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price, subtract_price
from mctrace.context.tree import TreeShape

TREE = TreeShape(block_size=4, max_level=2)


def candidates(gains: list[float], costs: list[float]) -> Candidates:
    """Level-1 nodes that expand for `gains` and others that collapse at `costs`."""
    count = len(gains) + len(costs)
    is_expand_A = np.arange(count) < len(gains)
    actions = ActionArrays(
        is_expand_A, np.ones(count, dtype=np.int64), np.arange(count), np.full(count, -1, dtype=np.int64)
    )
    return Candidates(actions, np.array([*gains, *costs], dtype=np.float64), np.full(count, 3))


@pytest.mark.parametrize(
    ("gains", "costs", "room", "wanted", "sold"),
    [
        # The first swap is worthwhile, the second is not.
        ([0.5, 0.2], [0.1, 0.3], 0, 1, 1),
        ([0.5, 0.4], [0.1, 0.3], 0, 2, 2),
        # Room for one more, so the first expand is free.
        ([0.5, 0.2], [0.3, 0.4], 3, 1, 0),
        ([0.5, 0.2], [0.1, 0.3], 3, 2, 1),
        # Over the budget by one collapse.
        ([0.5], [0.1, 0.3], -3, 1, 2),
        ([0.2], [0.1, 0.3], -3, 0, 1),
        # Edits with a gain are made at any price.
        ([-0.1], [-0.2, 0.3], 0, 0, 1),
        ([0.3], [], 0, 0, 0),
    ],
)
def test_the_shadow_price_separates_worthwhile_edits_from_the_others(gains, costs, room, wanted, sold):
    found = candidates(gains, costs)
    price = shadow_price(found, room)
    assert price >= 0
    score_A = subtract_price(found, room).score_A
    np.testing.assert_allclose(score_A, found.score_A - price)
    assert (score_A[: len(gains)] > 1e-9).sum() == wanted
    assert (score_A[len(gains) :] < -1e-9).sum() == sold


worths = st.lists(st.integers(-8, 40).map(lambda worth: worth / 16), max_size=8)


@given(gains=worths, costs=worths, room=st.integers(-20, 20))
def test_it_is_the_smallest_price_that_fits_or_the_highest_value(gains, costs, room):
    price = shadow_price(candidates(gains, costs), room)

    def takes(at: float) -> int:
        return 3 * (sum(gain > at for gain in gains) - sum(cost < at for cost in costs))

    tried = [worth / 32 for worth in range(100)]
    fitting = [at for at in tried if takes(at) <= room]
    if not fitting:
        assert takes(price) == min(takes(at) for at in tried)
        return
    assert takes(price) <= room
    # All prices between two neighbouring values select the same edits; any of them is correct.
    dearer = [worth for worth in [*gains, *costs] if worth > fitting[0]]
    assert price <= max(fitting[0] + 1 / 32, min(dearer, default=fitting[0]))


def test_unpriced_values_collapse_nothing_and_priced_ones_make_profitable_swaps():
    lod_map = LODMap(TREE, 0, 24, np.array([1, 1, 0, 0, 0, 0], dtype=np.uint8))
    value_N = np.array([0.9, 0.1, *[0.3] * 4, *[0.05] * 4, *[0.8] * 4, *[0.8] * 4])
    config = AllocatorConfig(expand_threshold=0.05, collapse_threshold=0.05, reversal_threshold=0.1)
    found = candidates_of(lod_map, 4, value_N)
    budget = lod_map.num_entries
    assert not allocate(lod_map, found, budget, config).edits
    edits = allocate(lod_map, subtract_price(found, 0), budget, config).edits
    assert {(edit.kind, edit.node.index) for edit in edits} == {("expand", 0), ("collapse", 3)}
