"""Texts read lazily, in pieces: a corpus is a list of files and lines, not of their contents.

However large a file is, only one piece of it is in memory at a time.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_PIECE_BYTES = 2**18
_PIECE_CHARACTERS = 2**16


class UnreadableTextError(Exception):
    """A file or line is not readable as text; the message is the reason alone."""


class SourceText(Protocol):
    """One document's text and where it came from ("folder/file.py", "file.jsonl:12")."""

    @property
    def source(self) -> str: ...

    def pieces(self) -> Iterator[str]:
        """The text in order, cut at any character; every call reads it again. Raises UnreadableTextError."""
        ...


def escaped(name: str) -> str:
    """A name as text that fits into a line and into UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def whole_text(text: SourceText) -> str:
    """All of it at once. Raises UnreadableTextError."""
    return "".join(text.pieces())


@dataclass(frozen=True)
class TextInMemory:
    """Generated text; `carrier` is the text that it was made from, if any."""

    source: str
    text: str
    metadata: str | None = None
    """what its row says of it besides, a JSON object"""
    carrier: "SourceText | None" = None

    def pieces(self) -> Iterator[str]:
        for first in range(0, len(self.text), _PIECE_CHARACTERS):
            yield self.text[first : first + _PIECE_CHARACTERS]


@dataclass(frozen=True)
class TextFile:
    """A file of UTF-8, with or without a byte order mark."""

    source: str
    path: Path

    def pieces(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            with self.path.open("rb") as file:
                while block := file.read(_PIECE_BYTES):
                    if piece := decoder.decode(block):
                        yield piece
                if rest := decoder.decode(b"", final=True):
                    yield rest
        except UnicodeDecodeError:
            raise UnreadableTextError("not UTF-8 text") from None
        except OSError as error:
            raise UnreadableTextError(f"unreadable ({error.strerror})") from error
