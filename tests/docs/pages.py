"""The pages that people read, and the fenced blocks in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "datasets" / "FORMAT.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_BLOCK = re.compile(r"(<!-- not run: .+ -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line at which the text begins, and whether it is to run."""

    language: str
    text: str
    line: int
    runs: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, language: str) -> list[Block]:
    """The page's blocks in one language, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(match[2], match[3], text.count("\n", 0, match.start(3)) + 1, match[1] is None)
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if block.language == language]


def commands_of(page: Path, program: str) -> Iterator[tuple[int, list[str]]]:
    """Line and arguments of every call of `program` in the page's shell blocks, comments left out."""
    for block in blocks_of(page, "sh"):
        number = block.line
        for line in re.split(r"(?<!\\)\n", block.text):  # a backslash at its end continues a line
            words = shlex.split(line.replace("\\\n", " "), comments=True)
            if program in words:
                yield number, words[words.index(program) + 1 :]
            number += line.count("\n") + 1
