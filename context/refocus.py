"""The refocus loop: once every K tokens a working context grows, is scored and has its edits chosen.

Closed-loop evaluation runs it over held-out documents, the trajectory policy `lensnet` runs it up to the
cursor where labels are measured. How maps are scored and allocated is the caller's `refocus` function.
"""

from collections.abc import Callable, Iterator

from mctrace.context.allocator import NOTHING_RECENT, Allocation, RecentEdits
from mctrace.context.lod_map import LODMap

Refocus = Callable[[LODMap, RecentEdits], Allocation]
"""chooses the edits of a map, given what was edited in the steps before"""


def refocus_steps(head: LODMap, last_cursor: int, refocus: Refocus) -> Iterator[tuple[LODMap, Allocation]]:
    """(map before, allocation) of every step from K tokens after the head's cursor up to `last_cursor`.

    The map before is the last allocation's with the K tokens since then at level 0. Lazy: a step runs when
    it is asked for. No step when `last_cursor` is less than K tokens ahead.
    """
    block, lod_map, recent = head.tree.block_size, head, NOTHING_RECENT
    for cursor in range(head.cursor + block, last_cursor + 1, block):
        before = lod_map.extended(cursor)
        allocation = refocus(before, recent)
        yield before, allocation
        lod_map, recent = allocation.lod_map, allocation.recent
