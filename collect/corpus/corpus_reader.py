"""From paths to texts: a generator of documents' places, and a count of what was left out and why.

Every file is looked through once, piece by piece, so that what is no text is known before anything is
tokenised; its content is read again when its document is made.
"""

import os
import stat
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import fsspec
from pyarrow import ArrowException

from mctrace.collect.corpus.lazy_texts import (
    SourceText,
    TextFile,
    TextInMemory,
    UnreadableTextError,
    escaped,
    whole_text,
)
from mctrace.collect.corpus.recall_documents import recall_texts
from mctrace.collect.corpus.recall_wordings import WORDINGS
from mctrace.collect.corpus.row_files import (
    ARROW,
    COMPRESSIONS,
    PARQUET,
    TAR,
    TEXT_SUFFIXES,
    Columns,
    RowFile,
    RowOfFile,
    document_of_row,
    documents_at,
    has_nothing,
    metadata_of,
    num_row_groups,
    row_of_line,
)
from mctrace.errors import InputError, one_line

ROWS_SUFFIX = ".jsonl"
STDLIB = "stdlib"
_STDLIB_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
"""Installed packages, tests, character tables and the prose that has a name of its own."""
PYDOC_TOPICS = "pydoc-topics"
RECALL = "recall:"
"""Before any other path or name: documents that plant facts in its texts and ask for them
(`recall_documents.py`)."""
_RECALL_IN = {RECALL: "training", "recall-development:": "development", "recall-test:": "test"}
"""Wordings of planted facts by what stands before the path (`recall_wordings.py`)."""
STDIN = "-"
_READABLE = (*TEXT_SUFFIXES, ROWS_SUFFIX, PARQUET, ARROW, TAR)
_SUFFIXES = " ".join(_READABLE) + f", or {' '.join(COMPRESSIONS)} of them"
_NUM_EXAMPLES = 3
_DEFAULT = Columns()


@dataclass
class Skipped:
    """Documents left out of a corpus: a count per reason, and the first few of each by name."""

    strict: bool = False
    """stop at what cannot be read instead of counting it"""
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=partial(defaultdict, list))

    def add(self, reason: str, source: str) -> None:
        self.counts[reason] += 1
        if len(self.examples[reason]) < _NUM_EXAMPLES:
            self.examples[reason].append(source)

    def add_unreadable(self, reason: str, source: str) -> None:
        """Count a file or line that cannot be read as text. Raises InputError when `strict`."""
        if self.strict:
            raise InputError(f"{source}: {reason}; fix it, or skip it by turning corpus.strict off")
        self.add(reason, source)

    def take_in(self, other: "Skipped") -> None:
        """Add what was left out elsewhere."""
        self.counts.update(other.counts)
        for reason, sources in other.examples.items():
            self.examples[reason] += sources[: _NUM_EXAMPLES - len(self.examples[reason])]

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {reason} (e.g. {', '.join(self.examples[reason])})"
            for reason, count in self.counts.items()
        )


def read_corpus(paths: Sequence[str], skipped: Skipped, columns: Columns = _DEFAULT) -> Iterator[SourceText]:
    """Places of the texts of every path, in path order; of rows what `columns` name.

    Raises InputError for a path that is missing or not text.
    """
    if not paths:
        raise InputError(
            "no corpus: give files or folders with --corpus, or set corpus.paths in pipeline.toml "
            f"({STDLIB!r} is Python's own standard library)"
        )
    for path in paths:
        if is_recall(path):
            yield from _recall(path, skipped, columns)
        elif path == PYDOC_TOPICS:
            yield from _pydoc_topics()
        elif path == STDLIB:
            folder = Path(sysconfig.get_path("stdlib"))
            yield from _read_folder(folder, STDLIB, skipped, columns, is_stdlib=True)
        elif path == STDIN:
            yield from _read_stdin(skipped, columns)
        elif "://" in path:
            yield from _read_uri(path, skipped, columns)
        else:
            yield from _read_path(path, skipped, columns)


def is_recall(path: str) -> bool:
    """Whether a corpus path or source names documents with planted facts."""
    return path.startswith(tuple(_RECALL_IN))


def printable(name: str | Path) -> str:
    """A file's name as text that fits into a line and into UTF-8, whatever bytes the name is made of."""
    return escaped(os.fsencode(name).decode(errors="backslashreplace"))


def _read_path(path: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    try:
        root = Path(path).expanduser() if path else None
        mode = root.stat().st_mode if root else 0
    except FileNotFoundError:
        raise InputError(f"corpus path {path!r} does not exist") from None
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"corpus path {_shortened(path)} cannot be read: {why}") from None
    if root is None:
        raise InputError("a corpus path is empty: give a file or folder, '.' for the current one")
    if stat.S_ISDIR(mode):
        try:
            os.scandir(root).close()
        except OSError as error:
            raise InputError(f"corpus path {path!r} cannot be read: {error.strerror}") from None
        yield from _read_folder(root, root.resolve().name, skipped, columns)
    elif not stat.S_ISREG(mode):
        raise InputError(f"corpus path {path!r} is neither a file nor a folder")
    elif not _is_readable(root.name):
        raise InputError(f"corpus file {path!r}: expected one of {_SUFFIXES}, got {root.suffix!r}")
    elif not os.access(root, os.R_OK):
        raise InputError(f"corpus path {path!r} cannot be read: Permission denied")
    else:
        yield from _read_file(root, printable(root.name), skipped, columns)


def _shortened(path: str) -> str:
    return repr(path if len(path) <= 80 else f"{path[:60]}…")


def _is_readable(name: str) -> bool:
    return _suffix_within(name) in _READABLE


def _suffix_within(name: str) -> str:
    """A file's ending without that of a compression."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def _read_stdin(skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    """JSON lines where the first line is an object, else one text."""
    content = sys.stdin.buffer.read()
    try:
        has_rows = bool(row_of_line(content.lstrip().partition(b"\n")[0]))
    except UnreadableTextError:
        has_rows = False
    if not has_rows:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            skipped.add_unreadable("not UTF-8 text", STDIN)
            return
        if text.strip():
            yield TextInMemory(STDIN, text)
        else:
            skipped.add("empty", STDIN)
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                row = row_of_line(line)
                yield document_of_row(columns.place(STDIN, number, row), row, columns)
            except UnreadableTextError as error:
                skipped.add_unreadable(str(error), f"{STDIN}:{number}")


def _read_uri(uri: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    """Files below a prefix of object storage, or of whatever fsspec opens, in the order of their paths."""
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        found = sorted(filesystem.find(root)) or ([root] if filesystem.exists(root) else [])
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"corpus path {uri!r} cannot be read: {one_line(error)}") from None
    if not found:
        raise InputError(f"corpus path {uri!r} does not exist")
    for place in found:
        source = printable(filesystem.unstrip_protocol(place))
        if _is_readable(place):
            yield from _rows_of(source, filesystem.unstrip_protocol(place), skipped, columns)
        else:
            skipped.add(f"not {_SUFFIXES}", source)


def _rows_of(source: str, uri: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    """Places of a file whose documents are read where they are made."""
    suffix = _suffix_within(uri)
    if suffix != PARQUET:
        yield RowFile(source, uri, suffix, columns)
        return
    try:
        num_groups = num_row_groups(uri)
    except (OSError, ArrowException) as error:
        skipped.add_unreadable(f"unreadable ({one_line(error)})", source)
        return
    for group in range(num_groups):
        yield RowFile(source, uri, suffix, columns, group)


def _read_folder(
    root: Path, name: str, skipped: Skipped, columns: Columns, *, is_stdlib: bool = False
) -> Iterator[SourceText]:
    """Its text files at any depth, in the order of their paths."""

    def source_of(file: Path) -> str:
        return printable(f"{name}/{file.relative_to(root)}")

    for file in _files_below(root, name, skipped):
        if is_stdlib and _STDLIB_LEFT_OUT & set(file.relative_to(root).parts):
            continue
        if not _is_readable(file.name):
            if not is_stdlib:
                skipped.add(f"not {_SUFFIXES}", source_of(file))
            continue
        try:
            is_file = stat.S_ISREG(file.stat().st_mode)
        except OSError as error:
            skipped.add_unreadable(f"unreadable ({error.strerror})", source_of(file))
            continue
        if is_file:
            yield from _read_file(file, source_of(file), skipped, columns)
        else:
            skipped.add_unreadable("neither file nor folder", source_of(file))


def _files_below(root: Path, name: str, skipped: Skipped) -> list[Path]:
    def unreadable(error: OSError) -> None:
        place = os.path.relpath(error.filename, root)
        skipped.add_unreadable(f"unreadable ({error.strerror})", printable(f"{name}/{place}"))

    found: list[Path] = []
    for folder, below, files in os.walk(root, onerror=unreadable):
        found += [Path(folder, file) for file in files]
        for one in below:
            if Path(folder, one).is_symlink():
                place = Path(folder, one).relative_to(root)
                skipped.add("links to folders, which are not followed", printable(f"{name}/{place}"))
    return sorted(found)


def _read_file(file: Path, source: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    if file.suffix == ROWS_SUFFIX:
        yield from _read_rows(file, source, skipped, columns)
        return
    if file.suffix not in TEXT_SUFFIXES:
        yield from _rows_of(source, str(file), skipped, columns)
        return
    text = TextFile(source, file)
    try:
        is_blank, is_binary = True, False
        for piece in text.pieces():
            is_blank = is_blank and not piece.strip()
            is_binary = is_binary or "\x00" in piece
    except UnreadableTextError as error:
        skipped.add_unreadable(str(error), source)
        return
    if is_binary:
        skipped.add_unreadable("binary", source)
    elif is_blank:
        skipped.add("empty", source)
    else:
        yield text


def _read_rows(file: Path, source: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    """One document per line (`document_of_row`)."""
    try:
        with file.open("rb") as lines:
            is_blank, first_byte = True, 0
            for number, line in enumerate(lines, start=1):
                here, first_byte = first_byte, first_byte + len(line)
                if not line.strip():
                    continue
                is_blank, place = False, f"{source}:{number}"
                try:
                    if has_nothing(document_of_row(place, row_of_line(line), columns)):
                        skipped.add("empty", place)
                    else:
                        yield RowOfFile(place, file, here, columns)
                except UnreadableTextError as error:
                    skipped.add_unreadable(str(error), place)
            if is_blank:
                skipped.add("empty", source)
    except OSError as error:
        skipped.add_unreadable(f"unreadable ({error.strerror})", source)


def _pydoc_topics() -> Iterator[SourceText]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield TextInMemory(f"{PYDOC_TOPICS}/{name}", topics[name])


def _recall(corpus: str, skipped: Skipped, columns: Columns) -> Iterator[SourceText]:
    prefix = next(prefix for prefix in _RECALL_IN if corpus.startswith(prefix))
    wording, path = WORDINGS[_RECALL_IN[prefix]], corpus.removeprefix(prefix)
    if not path:
        raise InputError(
            f"corpus path {prefix!r} lacks what to plant facts in: {prefix}{STDLIB}, for example"
        )
    places = read_corpus([path], skipped, columns)
    for carrier in (document for place in places for document in documents_at(place, skipped)):
        number = 0
        texts = recall_texts(carrier.source, whole_text(carrier), wording)
        for number, made in enumerate(texts, start=1):
            yield TextInMemory(f"{prefix}{carrier.source}#{number}", made.text, metadata_of(carrier), carrier)
        if not number:
            skipped.add("too short to plant facts in", carrier.source)
