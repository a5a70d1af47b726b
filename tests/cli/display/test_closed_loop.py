"""The closed loop's table: what rounds to nothing has one sign."""

from io import StringIO

from rich.console import Console

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.summary import PolicySummary
from mctrace.cli.display.closed_loop import print_closed_loop
from mctrace.train.evaluation.statistics import Interval


def test_nothing_is_never_less_than_nothing():
    nothing, nll = Interval(-1e-7, -2e-6, 3e-6, 4), Interval(2.8415, 2.5, 3.1, 4)
    summary = PolicySummary(nll, nll, nothing, nothing, None, None, 0.0, 0.0, None, 1.0, 0.0, {})
    out = StringIO()
    print_closed_loop(
        "corpus", {"lod0": summary}, ClosedLoopConfig(), 32, Console(file=out, width=300, force_terminal=True)
    )
    assert out.getvalue().count("+0.0000 [+0.0000, +0.0000]") == 2
    assert "-0.0000" not in out.getvalue()
