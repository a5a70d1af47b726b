"""A document's text as a person may look at it, with nothing hidden in it.

Corpus text is data. What would act on a terminal or reorder what stands beside it (escape characters, marks
of writing direction, half surrogate pairs) is replaced by a visible sign that names it.
"""

import re
import unicodedata

_KEPT = "\n\t\u200c\u200d"
"""line ends, tabs, and the joiners that emoji and several scripts are written with"""
_ACTING = re.compile(r"[^\S\n\t ]|[^\w\s!-~]")


def visible(text: str) -> str:
    """The same text with every character that acts, rather than shows, written out: U+001B as ␛, U+202E as
    ⟨U+202E⟩; line ends and tabs stay."""
    return _ACTING.sub(lambda match: _sign(match.group()), text)


def _sign(character: str) -> str:
    if character in _KEPT:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character


def excerpt(text: str, width: int) -> str:
    """One line of at most `width` characters, all visible; the middle is left out where it is long."""
    line = " ".join(visible(text).replace("\u200c", "").replace("\u200d", "").split())
    if len(line) <= width:
        return line
    tail = width // 3
    return f"{line[: width - tail - 3].rstrip()} … {line[len(line) - tail :].lstrip()}"[:width]
