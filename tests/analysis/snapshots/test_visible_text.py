"""Corpus text made safe to look at."""

import pytest

from mctrace.analysis.snapshots.visible_text import excerpt, visible

LETTERS = "na\u00efve \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x00\x1b[31m\x7f\r", "␀␛[31m␡␍"),
        ("a\u202egnp.exe\u2066", "a⟨U+202E⟩gnp.exe⟨U+2066⟩"),
        ("\u200f\ufeff\u2028\x85\xad", "⟨U+200F⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+0085⟩⟨U+00AD⟩"),
        ("\ud83e", "⟨U+D83E⟩"),
        (LETTERS, LETTERS),
        ("no\u00a0break", "no\u00a0break"),
    ],
)  # fmt: skip
def test_acting_characters_are_written_out_and_others_stay(text: str, shown: str) -> None:
    assert visible(text) == shown
    visible(text).encode()


def test_an_excerpt_is_one_line_of_that_width() -> None:
    assert excerpt("  two\n\tlines ", 40) == "two lines"
    long = excerpt("begin " + "x " * 100 + "\x1b end", 30)
    assert len(long) <= 30
    assert long.startswith("begin x")
    assert long.endswith("␛ end")
    assert " … " in long
