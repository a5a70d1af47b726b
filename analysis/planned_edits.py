"""What an allocator would do with a snapshot's actions. One function, so that one place decides."""

from mctrace.analysis.snapshot_view import ActionView


def planned_edit(action: ActionView) -> str:
    """ "expand", "collapse", "keep", or "unknown" for an action that was not measured.

    By the priced target: an expand is made where its value of detail exceeds the price of the positions it
    costs, a collapse where what it loses is worth less than the positions it frees (`targets/priced.sql`).
    """
    utility = action.measured.priced if action.measured else None
    if utility is None:
        return "unknown"
    return action.action.kind if utility else "keep"
