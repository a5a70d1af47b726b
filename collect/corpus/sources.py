"""From files to text: a generator of sources, and a count of what was left out and why."""

import json
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mctrace.collect.corpus.recall import recall_texts
from mctrace.errors import InputError

TEXT_SUFFIXES = (".txt", ".md", ".py")
STDLIB = "stdlib"
_STDLIB_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
"""Installed packages, tests, character tables and the prose that has a name of its own."""
PYDOC_TOPICS = "pydoc-topics"
RECALL = "recall:"
"""Before any other path or name: documents that plant facts in its texts and ask for them (`recall.py`)."""


@dataclass(frozen=True)
class SourceText:
    """One document's text and where it came from ("folder/file.py", "file.jsonl:12")."""

    source: str
    text: str


@dataclass
class Skipped:
    """What was left out of a corpus: how often for each reason, and one example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, source: str) -> None:
        self.counts[reason] += 1
        self.examples.setdefault(reason, source)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {reason} (e.g. {self.examples[reason]})" for reason, count in self.counts.items()
        )


def read_corpus(paths: Sequence[str], skipped: Skipped) -> Iterator[SourceText]:
    """Texts of every path, in path order. Raises InputError for a path that is missing or not text."""
    if not paths:
        raise InputError(
            "no corpus: give files or folders with --corpus, or set corpus.paths in pipeline.toml "
            f"({STDLIB!r} is Python's own standard library)"
        )
    for path in paths:
        if path.startswith(RECALL):
            yield from _recall(path.removeprefix(RECALL), skipped)
            continue
        if path == PYDOC_TOPICS:
            yield from _pydoc_topics()
            continue
        root = Path(sysconfig.get_path("stdlib")) if path == STDLIB else Path(path).expanduser()
        if not root.exists():
            raise InputError(f"corpus path {path!r} does not exist")
        folder = STDLIB if path == STDLIB else root.resolve().name
        for file in _files(root, is_stdlib=path == STDLIB):
            source = f"{folder}/{file.relative_to(root)}" if root.is_dir() else file.name
            yield from _read_file(file, source, skipped)


def _files(root: Path, is_stdlib: bool) -> Iterator[Path]:
    if root.is_file():
        if root.suffix not in (*TEXT_SUFFIXES, ".jsonl"):
            raise InputError(f"corpus file {root}: expected one of .txt .md .py .jsonl, got {root.suffix!r}")
        yield root
        return
    for file in sorted(root.rglob("*")):
        if file.suffix in (*TEXT_SUFFIXES, ".jsonl") and file.is_file():
            if is_stdlib and _STDLIB_LEFT_OUT & set(file.relative_to(root).parts):
                continue
            yield file


def _read_file(file: Path, source: str, skipped: Skipped) -> Iterator[SourceText]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"corpus file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        skipped.add("not UTF-8 text", source)
        return
    if "\x00" in text:
        skipped.add("binary", source)
    elif not text.strip():
        skipped.add("empty", source)
    elif file.suffix == ".jsonl":
        yield from _read_jsonl(text, source, skipped)
    else:
        yield SourceText(source, text)


def _read_jsonl(text: str, source: str, skipped: Skipped) -> Iterator[SourceText]:
    """One document per line: an object with a string under "text"."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{source} line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError(f'{source} line {number}: expected an object with a string under "text"')
        if not _is_encodable(row["text"]):
            skipped.add("not UTF-8 text", f"{source}:{number}")
        elif row["text"].strip():
            yield SourceText(f"{source}:{number}", row["text"])
        else:
            skipped.add("empty", f"{source}:{number}")


def _is_encodable(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pydoc_topics() -> Iterator[SourceText]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield SourceText(f"{PYDOC_TOPICS}/{name}", topics[name])


def _recall(path: str, skipped: Skipped) -> Iterator[SourceText]:
    if not path:
        raise InputError(
            f"corpus path {RECALL!r} lacks what to plant facts in: {RECALL}{STDLIB}, for example"
        )
    for carrier in read_corpus([path], skipped):
        number = 0
        for number, made in enumerate(recall_texts(carrier.source, carrier.text), start=1):
            yield SourceText(f"{RECALL}{carrier.source}#{number}", made.text)
        if not number:
            skipped.add("too short to plant facts in", carrier.source)
