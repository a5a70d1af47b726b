"""The closed loop's table: what rounds to nothing has one sign."""

from dataclasses import replace
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
    assert "hindsight" not in out.getvalue(), "a column without a number"


def test_one_document_has_no_interval():
    """It had one of no width, which reads as certainty."""
    gain = Interval(0.25, 0.25, 0.25, 1)
    summary = PolicySummary(gain, gain, gain, gain, None, None, 0.0, 0.0, None, 1.0, 0.0, {})
    summary = replace(summary, share_of_hindsight=gain)
    out = StringIO()
    console = Console(file=out, width=300, force_terminal=True)
    print_closed_loop("corpus", {"lensnet": summary}, ClosedLoopConfig(), 32, console)
    assert "1 document," in out.getvalue()
    assert "+0.2500" in out.getvalue()
    assert "25%" in out.getvalue()
    assert "[+" not in out.getvalue()
    assert "[25%" not in out.getvalue()
