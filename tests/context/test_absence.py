"""Absent blocks: maps, actions, prices and allocations against slow definitions and exact optima."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.exhaustive_allocator import best_edits, total_wish
from mctrace.collect.planning.map_policies import random_map, recency_map_within, truncation_map
from mctrace.context.actions import Action, apply_action, legal_actions
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.legal_entries import legal_entries
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price, subtract_price
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import ABSENT, Node, TreeShape
from mctrace.errors import LegalityError
from tests.context.strategies import legal_maps, light, shown_nodes, some_of

TREE = TreeShape(4, 2, "tokens")
absences = st.sampled_from(("tokens", "gist"))
tails = st.sampled_from((0, 4, 7, 16))


@st.composite
def maps_with_absence(draw: st.DrawFn) -> LODMap:
    """A legal map with some of its nodes left out, at least one shown."""
    whole = draw(legal_maps())
    lod_map = LODMap(replace(whole.tree, absence=draw(absences)), whole.start, whole.cursor, whole.levels)
    size, levels = lod_map.tree.block_size, lod_map.levels.copy()
    for node in shown_nodes(whole):
        is_block = node.level > 0 or node.index % size == 0
        end = (node.index + (size if node.level == 0 else 1)) * size**node.level
        if is_block and end <= whole.cursor and draw(st.booleans()):
            first = node.index * size**node.level // size - whole.first_block
            levels[first : end // size - whole.first_block] = ABSENT
    if (levels == ABSENT).all():
        return lod_map
    return LODMap(lod_map.tree, lod_map.start, lod_map.cursor, levels)


def nodes_by_token(lod_map: LODMap) -> list[tuple[int, int, int]]:
    """(level, index, first token) of what is shown, by asking token after token."""
    size, token, found = lod_map.tree.block_size, lod_map.start, []
    while token < lod_map.cursor:
        level = int(lod_map.levels[(token - lod_map.start) // size])
        if level == ABSENT:
            token += size
            continue
        found.append((level, token // size**level, token))
        token = (token // size**level + 1) * size**level
    return found


@light
@given(maps_with_absence())
def test_entries_are_what_is_shown_and_keep_their_positions(lod_map):
    entries, expected = lod_map.entries, nodes_by_token(lod_map)
    assert list(zip(entries.level_N, entries.index_N, entries.first_token_N, strict=True)) == expected
    assert lod_map.num_entries == len(entries)
    nothing_absent = LODMap(
        lod_map.tree, lod_map.start, lod_map.cursor, np.where(lod_map.levels == ABSENT, 0, lod_map.levels)
    ).entries
    kept = np.isin(nothing_absent.first_token_N, entries.first_token_N)
    assert np.array_equal(entries.position_N(lod_map.start), nothing_absent.position_N(lod_map.start)[kept])


@light
@given(maps_with_absence())
def test_scored_nodes_are_the_entries_and_the_absent_blocks_in_order(lod_map):
    nodes = lod_map.nodes
    assert (np.diff(nodes.first_token_N) > 0).all()
    is_absent = nodes.level_N == ABSENT
    assert np.array_equal(nodes.index_N[~is_absent], lod_map.entries.index_N)
    blocks = lod_map.first_block + np.flatnonzero(lod_map.levels == ABSENT)
    assert np.array_equal(nodes.index_N[is_absent], blocks)
    assert not nodes.span_width_N[is_absent].any()


@light
@given(maps_with_absence(), tails)
def test_every_action_costs_what_it_says_and_can_be_undone(lod_map, tail):
    legal = legal_actions(lod_map, tail)
    assert len(set(legal)) == len(legal)
    for action in some_of(legal, 16):
        after = apply_action(lod_map, action)
        assert after.num_entries - lod_map.num_entries == action.change_in_positions(lod_map.tree)
        opposite = {"expand": "collapse", "collapse": "expand", "insert": "drop", "drop": "insert"}
        back = Action(opposite[action.kind], action.node, action.entry_level)
        assert apply_action(after, back) == lod_map
        if action.kind in ("collapse", "drop"):
            assert lod_map.tree.span(action.node)[1] <= lod_map.cursor - tail


@light
@given(maps_with_absence(), tails)
def test_the_legal_inserts_and_drops_are_those_of_the_definition(lod_map, tail):
    size, last_end = lod_map.tree.block_size, lod_map.cursor - tail
    entry_level = 0 if lod_map.tree.absence == "tokens" else 1
    absent = (lod_map.first_block + i for i, level in enumerate(lod_map.levels) if level == ABSENT)
    expected = {Action("insert", Node(1, block), entry_level) for block in absent}
    shown = {
        (max(level, 1), first // size ** max(level, 1), level) for level, _, first in nodes_by_token(lod_map)
    }
    drops = [Action("drop", Node(level, index), entry) for level, index, entry in shown]
    if len(shown) > 1:
        expected |= {action for action in drops if lod_map.tree.span(action.node)[1] <= last_end}
    found = legal_actions(lod_map, tail)
    assert {action for action in found if action.kind in ("insert", "drop")} == expected
    without = LODMap(replace(lod_map.tree, absence="off"), lod_map.start, lod_map.cursor, lod_map.levels)
    assert legal_actions(without, tail) == [a for a in found if a.kind in ("expand", "collapse")]


def test_a_map_shows_something_and_no_drop_leaves_the_first_cursor_without_an_entry():
    with pytest.raises(LegalityError, match="all of its blocks are absent"):
        LODMap(TREE, 0, 8, np.full(2, ABSENT))
    head = LODMap(TREE, 0, 12, np.array([ABSENT, ABSENT, 0]))
    only = Action("drop", Node(1, 2))
    assert only not in legal_actions(head, 0)
    assert only not in Trajectory(head, (12, 16), 4).legal_actions(0)
    assert Action("drop", Node(1, 3)) in Trajectory(head, (12, 16), 4).legal_actions(0)
    later = Trajectory(LODMap(TREE, 0, 13, np.array([ABSENT, ABSENT, 0, 0])), (13,), 4)
    assert only in later.legal_actions(0)


def test_the_last_block_cannot_be_absent_when_the_cursor_cuts_it():
    with pytest.raises(LegalityError, match="cuts its last block"):
        LODMap(TREE, 0, 10, np.array([0, 0, ABSENT]))


@light
@given(maps_with_absence(), st.integers(0, 2**31))
def test_an_action_has_the_mean_score_of_the_nodes_it_replaces(lod_map, seed):
    nodes = lod_map.nodes
    score_N = np.random.default_rng(seed).normal(size=len(nodes))
    of_node = {
        (int(level), int(index)): score
        for level, index, score in zip(nodes.level_N, nodes.index_N, score_N, strict=True)
    }
    candidates = candidates_of(lod_map, 0, score_N)
    assert {candidates.actions.action(i) for i in range(len(candidates))} == set(legal_actions(lod_map, 0))
    for i in range(len(candidates)):
        action = candidates.actions.action(i)
        replaced = action.entries(lod_map.tree)
        keys = (
            [(ABSENT, action.node.index)]
            if action.kind == "insert"
            else [(n.level, n.index) for n in replaced]
        )
        np.testing.assert_allclose(candidates.score_A[i], np.mean([of_node[key] for key in keys]))
        assert candidates.positions_A[i] == action.positions(lod_map.tree)


@light
@given(maps_with_absence(), tails, st.integers(0, 2**31), st.data())
def test_an_allocation_keeps_budget_and_tail_and_makes_legal_edits_only(lod_map, tail, seed, data):
    candidates = candidates_of(lod_map, tail)
    score_A = np.random.default_rng(seed).normal(size=len(candidates))
    candidates = subtract_price(replace(candidates, score_A=score_A), 0)
    budget = data.draw(st.integers(max(1, lod_map.num_entries - 24), lod_map.num_entries + 40))
    config = AllocatorConfig(num_edits=data.draw(st.integers(0, 6)))
    try:
        done = allocate(lod_map, candidates, budget, config)
    except LegalityError:
        freed = sum(candidates.positions_A[~candidates.is_expand_A])
        assert budget < lod_map.num_entries
        # What could free enough shares entries with what was taken, or is all that is left.
        assert tail or freed
        return
    assert done.lod_map.num_entries <= budget
    assert len(done.edits) <= max(config.num_edits, done.num_forced)
    legal_at_first, stepwise = set(legal_actions(lod_map, tail)), lod_map
    for action in done.edits:
        assert action in legal_at_first
        stepwise = apply_action(stepwise, action)
    assert stepwise == done.lod_map
    first_kept = -(-(lod_map.cursor - tail) // lod_map.tree.block_size) - lod_map.first_block
    kept = slice(max(0, first_kept), None)
    before, after = lod_map.levels[kept], done.lod_map.levels[kept]
    assert (after[before == 0] == 0).all()


values = st.integers(-8, 40).map(lambda value: value / 16)
priced = st.lists(st.tuples(values, st.sampled_from((1, 2, 4))), max_size=7)


def of_costs(gains: list[tuple[float, int]], costs: list[tuple[float, int]]) -> Candidates:
    """Expands and collapses as (value, positions), without a map."""
    found = candidates_of(LODMap.of_tokens(TREE, 0, 400), 0)
    count = len(gains) + len(costs)
    actions = replace(found.actions.at(np.arange(count)), is_expand_A=np.arange(count) < len(gains))
    both = [*gains, *costs]
    return Candidates(
        actions,
        np.array([value for value, _ in both], dtype=np.float64),
        np.array([positions for _, positions in both], dtype=np.int64),
    )


@light
@given(gains=priced, costs=priced, room=st.integers(-20, 20))
def test_the_price_is_the_smallest_that_fits_with_unequal_costs(gains, costs, room):
    found = of_costs(gains, costs)
    if not len(found):
        return
    largest = int(found.positions_A.max())
    price = shadow_price(found, room)

    def takes(at: float) -> int:
        """At a price of `largest` positions; exact, since every cost is a power of two."""
        bought = sum(c for v, c in gains if v * (largest // c) > at)
        return bought - sum(c for v, c in costs if v * (largest // c) < at)

    prices = [0.0, *(v * (largest // c) for v, c in gains)]
    prices += [np.nextafter(v * (largest // c), np.inf) for v, c in costs]
    fitting = [at for at in prices if at >= 0 and takes(at) <= room]
    if fitting:
        assert takes(price) <= room
        smallest, worths = min(fitting), [v * (largest // c) for v, c in [*gains, *costs]]
        assert smallest <= price
        assert not any(smallest < worth < price for worth in worths), "a smaller price selects the same"
    else:
        assert price == max(0.0, *prices)
    np.testing.assert_allclose(
        subtract_price(found, room).score_A, found.score_A - price * found.positions_A / largest, atol=1e-12
    )


def test_priced_edits_come_near_the_exact_optimum_of_the_knapsack():
    """All subsets of the edits that fit; the price's choice is the fractional knapsack's."""
    shares = []
    for seed in range(120):
        generator = np.random.default_rng(seed)
        worths, positions = generator.gamma(1, 0.5, 10), generator.choice((1, 3, 4), 10)
        both = list(zip(worths.tolist(), positions.tolist(), strict=True))
        gains, costs = both[:5], both[5:]
        room = int(generator.integers(0, 9))
        score_A = subtract_price(of_costs(gains, costs), room).score_A
        taken = [score > 0 for score in score_A[:5]], [score < 0 for score in score_A[5:]]

        def worth(bought, sold, gains=gains, costs=costs, room=room):
            positions = sum(c for (_, c), b in zip(gains, bought, strict=True) if b)
            positions -= sum(c for (_, c), s in zip(costs, sold, strict=True) if s)
            if positions > room:
                return -np.inf
            gained = sum(v for (v, _), b in zip(gains, bought, strict=True) if b)
            return gained - sum(v for (v, _), s in zip(costs, sold, strict=True) if s)

        choices = list(product((False, True), repeat=5))
        best = max(worth(bought, sold) for bought in choices for sold in choices)
        found = worth(*taken)
        assert found <= best + 1e-9
        assert np.isfinite(found), "the priced edits do not fit"
        shares.append(found / best)
    assert np.mean(shares) > 0.9


def test_greedy_edits_of_unequal_costs_are_never_better_than_the_optimum_and_lose_little():
    config = AllocatorConfig(num_edits=3)
    shares = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        levels = generator.permutation([0, 0, 1, 1, ABSENT, ABSENT])
        lod_map = LODMap(replace(TREE, max_level=1), 0, 28, np.append(levels, 0))
        candidates = candidates_of(lod_map, 4)
        candidates = replace(candidates, score_A=generator.normal(size=len(candidates)))
        budget = lod_map.num_entries + int(generator.integers(-4, 8))
        done = allocate(lod_map, candidates, budget, config)
        assert done.lod_map.num_entries <= budget
        edits = best_edits(lod_map, candidates, budget, 3)
        after = lod_map
        for action in sorted(edits, key=lambda action: action.shows_more):
            after = apply_action(after, action)
        assert after.num_entries <= budget
        greedy, best = (total_wish(one, candidates) for one in (done.edits, edits))
        if len(done.edits) <= 3:
            assert greedy <= best + 1e-9
        if best > 0:
            shares.append(greedy / best)
    assert np.mean(shares) > 0.8


def test_without_scores_the_budget_drops_the_oldest_block():
    lod_map = LODMap.of_tokens(TREE, 0, 40)
    done = allocate(lod_map, candidates_of(lod_map, 8), 32, AllocatorConfig())
    assert done.edits == (Action("drop", Node(1, 0)), Action("drop", Node(1, 1)))
    assert done.lod_map == truncation_map(TREE, 0, 40, 8)


def test_a_cheap_insert_is_made_where_a_dear_expand_does_not_fit():
    tree = replace(TREE, absence="gist")
    lod_map = LODMap(tree, 0, 24, np.array([ABSENT, 1, 0, 0, 0, 0]))
    candidates = candidates_of(lod_map, 24)
    wishes = {Action("expand", Node(1, 1)): 2.0, Action("insert", Node(1, 0), 1): 1.0}
    done = allocate(lod_map, candidates.rescored(wishes), lod_map.num_entries + 1, AllocatorConfig())
    assert done.edits == (Action("insert", Node(1, 0), 1),)


@pytest.mark.parametrize("kinds", [("expand", "collapse", "insert", "drop"), ("insert", "drop")])
def test_random_maps_leave_blocks_out_and_keep_the_tail(kinds):
    for seed in range(8):
        lod_map = random_map(
            TREE, 0, 240, target_length=48, protected_tail=16, num_iterations=3, kinds=kinds,
            generator=np.random.default_rng(seed),
        )  # fmt: skip
        assert lod_map.num_entries <= 48
        assert not lod_map.levels[-4:].any()
        assert ABSENT in lod_map.levels
        if "collapse" not in kinds:
            assert set(lod_map.levels.tolist()) == {0, ABSENT}


def test_recency_within_a_budget_is_truncation():
    found = recency_map_within(TREE, 0, 240, 50, 16)
    assert found == truncation_map(TREE, 0, 240, 192)
    off = replace(TREE, absence="off")
    assert ABSENT not in recency_map_within(off, 0, 240, 120, 16).levels


@light
@given(maps_with_absence(), tails)
def test_legal_entries_are_what_the_legal_actions_take(lod_map, tail):
    nodes, found = lod_map.nodes, legal_entries(lod_map, tail)
    places = {one: i for i, one in enumerate(zip(nodes.level_N, nodes.index_N, strict=True))}
    kinds = {"expand": set(), "insert": set(), "collapse": set(), "drop": set()}
    for action in legal_actions(lod_map, tail):
        for node in action.entries(lod_map.tree):
            kinds[action.kind].add(places[ABSENT if action.kind == "insert" else node.level, node.index])
    assert set(np.flatnonzero(found.can_expand_N)) == kinds["expand"] | kinds["insert"]
    assert set(np.flatnonzero(found.can_collapse_N)) == kinds["collapse"]
    assert set(np.flatnonzero(found.can_drop_N)) == kinds["drop"]
    tokens = np.flatnonzero(nodes.level_N == 0)
    assert kinds["drop"] & set(tokens) <= kinds["collapse"]  # a block's mean serves both
