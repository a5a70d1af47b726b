"""What `plan --hours` proposes can be run."""

from io import StringIO

import pytest
from rich.console import Console

from mctrace.cli.display.collection import print_within_hours
from mctrace.collect.planning.time_limit import WithinHours


@pytest.mark.parametrize(("limit", "is_proposed"), [(0, False), (2, False), (3, True)])
def test_no_limit_is_proposed_that_leaves_a_split_empty(limit, is_proposed):
    """It proposed --limit 1, which collect refuses."""
    out = StringIO()
    print_within_hours(WithinHours(0.05, False, 6, limit), Console(file=out, width=300))
    assert "--actors 6" in out.getvalue()
    assert ("--limit" in out.getvalue()) == is_proposed
