"""The refocus loop against one written out by hand."""

import numpy as np

from mctrace.context.allocator import NOTHING_RECENT, Allocation, AllocatorConfig, RecentEdits, allocate
from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.refocus import refocus_steps
from mctrace.context.tree import TreeShape

TREE = TreeShape(block_size=4, max_level=2)
TAIL, BUDGET = 8, 40


def refocus(lod_map: LODMap, recent: RecentEdits) -> Allocation:
    """Random scores that depend on the cursor and the step."""
    score_N = np.random.default_rng((lod_map.cursor, recent.step)).normal(size=lod_map.num_entries)
    return allocate(lod_map, candidates_of(lod_map, TAIL, score_N), BUDGET, AllocatorConfig(), recent)


def test_every_step_extends_the_last_map_and_remembers_its_edits():
    head = LODMap.of_tokens(TREE, 8, 46)  # not at a block's end
    lod_map, recent, expected = head, NOTHING_RECENT, []
    for cursor in (50, 54, 58, 62, 66, 70):
        before = lod_map.extended(cursor)
        allocation = refocus(before, recent)
        lod_map, recent = allocation.lod_map, allocation.recent
        expected.append((before, allocation))
    assert list(refocus_steps(head, 73, refocus)) == expected
    assert recent.step == 6
    # Cooldown binds here: with nothing remembered another map comes out.
    forgetful = refocus_steps(
        head, 73, lambda lod_map, recent: refocus(lod_map, RecentEdits((), recent.step))
    )
    assert list(forgetful)[-1][1].lod_map != lod_map


def test_no_step_before_k_tokens_have_come():
    head = LODMap.of_tokens(TREE, 0, 40)
    assert list(refocus_steps(head, 43, refocus)) == []
    assert [before.cursor for before, _ in refocus_steps(head, 44, refocus)] == [44]


def test_steps_run_when_they_are_asked_for():
    cursors = []

    def recorded(lod_map: LODMap, recent: RecentEdits) -> Allocation:
        cursors.append(lod_map.cursor)
        return refocus(lod_map, recent)

    steps = refocus_steps(LODMap.of_tokens(TREE, 0, 40), 80, recorded)
    next(steps)
    assert cursors == [44]
