"""Document text made safe to look at: characters that act rather than show are written out.

Corpus text is data. Characters that would act on a terminal or reorder their neighbours (escape characters,
marks of writing direction, half surrogate pairs) are replaced by a visible sign that names them.
"""

import re
import unicodedata

_KEPT = "\n\t\u200c\u200d"
"""line ends, tabs, and the joiners that emoji and several scripts are written with"""
_ACTING = re.compile(r"[^\S\n\t ]|[^\w\s!-~]")


def visible(text: str) -> str:
    """The text with every acting character written out: U+001B as ␛, U+202E as ⟨U+202E⟩.

    Line ends and tabs stay.
    """
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
    """One line of at most `width` visible characters; long text loses its middle."""
    line = " ".join(visible(text).replace("\u200c", "").replace("\u200d", "").split())
    if len(line) <= width:
        return line
    tail = width // 3
    return f"{line[: width - tail - 3].rstrip()} … {line[len(line) - tail :].lstrip()}"[:width]
