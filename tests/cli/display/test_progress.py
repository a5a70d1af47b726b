"""Lines of progress where there is no terminal, and the bar where there is one."""

from io import StringIO

import pytest
from rich.console import Console

from mctrace.cli.display.progress import LiveProgress, PlainProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mctrace.cli.display.progress.time.monotonic", lambda: now[0])
    return now


def test_a_counted_step_says_amount_rate_and_time_left(clock):
    out = StringIO()
    progress = PlainProgress(Console(file=out))
    progress.start("verifying", 40, "parts")
    clock[0] += 20
    progress.advance(10)
    assert out.getvalue() == "verifying: 10 of 40 parts, 0.5 parts/s, 20 s passed, 60 s left\n"


def test_a_step_that_is_not_counted_says_what_it_is_and_no_amount(clock):
    """It said "probing the workers: 0 , 0 /s, 3 s passed"."""
    out = StringIO()
    progress = PlainProgress(Console(file=out))
    progress.start("probing the workers", None, "")
    assert out.getvalue() == "probing the workers\n"
    clock[0] += 3
    progress.stop()
    assert out.getvalue() == "probing the workers\n"
    progress.start("measuring the noise floor", None, "")
    clock[0] += 40
    progress.stop()
    assert out.getvalue().splitlines()[1:] == [
        "measuring the noise floor",
        "measuring the noise floor: 40 s passed",
    ]


def test_large_numbers_have_no_exponent_and_the_end_is_said_once(clock):
    """It said "36 of 5e+04 steps" and "1.29e+05 documents/s", and its last line twice."""
    out = StringIO()
    progress = PlainProgress(Console(file=out))
    progress.start("training", 50_000, "steps")
    clock[0] += 20
    progress.advance(50_000)
    progress.stop()
    assert out.getvalue() == "training: 50,000 of 50,000 steps, 2,500 steps/s, 20 s passed, 0 s left\n"


def test_the_bar_of_a_step_that_is_not_counted_has_no_count():
    shown = {}
    for unit, total in (("", None), ("parts", 4)):
        out = StringIO()
        bar = LiveProgress(Console(file=out, force_terminal=True, width=200))
        bar.start("working", total, unit)
        bar.stop()
        shown[unit] = out.getvalue()
    assert "0/4" in shown["parts"]
    assert "left" in shown["parts"]
    assert "0/" not in shown[""]
    assert "left" not in shown[""]
