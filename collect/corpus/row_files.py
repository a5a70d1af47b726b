"""Files of rows, compressed or not, on a disk or behind any URI that fsspec opens: JSON lines, Parquet, the
Arrow files of Hugging Face datasets, and the tar files of WebDataset.

A place in the corpus is then a whole file or a row group, and its documents are read where they are made. A
row is a text under the text column, ready token ids under "input_ids", or a chat under "messages". A sample
of a tar file, its neighbouring members of one name, is the text of a member, else the row of its .json.
"""

import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.lazy_texts import SourceText, TextInMemory, UnreadableTextError, escaped
from mctrace.errors import one_line

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
ARROW = ".arrow"
TAR = ".tar"
TEXT_SUFFIXES = (".txt", ".md", ".py")
COMPRESSIONS = (".gz", ".xz", ".zst")
TOKENS, CHAT = "input_ids", "messages"
"""Columns of ready token ids and of chats, {"role", "content"} in turn."""

Chat = Sequence[Mapping[str, Any]]
Tokens = npt.NDArray[np.int32]


class _Notes(Protocol):
    def add(self, reason: str, source: str) -> None: ...

    def add_unreadable(self, reason: str, source: str) -> None: ...


@dataclass(frozen=True)
class Columns:
    """Columns of a row that are read besides ready token ids and chats."""

    text: str = "text"
    metadata: tuple[str, ...] = ()
    id: str | None = None

    @classmethod
    def of(cls, config: CorpusConfig) -> "Columns":
        return cls(config.text_column, config.metadata_columns, config.id_column)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All that is read of a file, each once."""
        identity = (self.id,) if self.id else ()
        return tuple(dict.fromkeys((self.text, TOKENS, CHAT, *self.metadata, *identity)))

    def place(self, file: str, number: int | str, row: Mapping[str, Any]) -> str:
        """Source of a row's document: its file and its own id, else its number (from 1)."""
        own = row.get(self.id) if self.id else None
        is_named = isinstance(own, str | int) and not isinstance(own, bool) and own != ""
        return f"{file}:{escaped(str(own)) if is_named else number}"


@dataclass(frozen=True)
class TokenRow:
    """Ready token ids."""

    source: str
    tokens: Tokens
    metadata: str | None = None

    def pieces(self) -> Iterator[str]:
        raise UnreadableTextError("token ids without text")


@dataclass(frozen=True)
class ChatRow:
    """A conversation, which the tokenizer's own template turns into text."""

    source: str
    messages: Chat
    metadata: str | None = None

    def pieces(self) -> Iterator[str]:
        raise UnreadableTextError("a chat without a tokenizer's template")


@dataclass(frozen=True)
class RowFile:
    """Documents of a file, or of a row group of a Parquet file; `suffix` is that beneath a compression."""

    source: str
    uri: str
    suffix: str
    columns: Columns
    row_group: int | None = None

    def pieces(self) -> Iterator[str]:
        raise UnreadableTextError("a file of rows")

    def texts(self, skipped: _Notes) -> Iterator[SourceText]:
        """Every document that can be read; the others are counted in `skipped`."""
        try:
            if self.suffix == PARQUET:
                yield from self._rows_of_table(skipped)
            elif self.suffix == ARROW:
                yield from self._rows_of_stream(skipped)
            elif self.suffix == TAR:
                yield from self._samples(skipped)
            elif self.suffix in JSON_LINES:
                yield from self._rows_of_lines(skipped)
            else:
                yield from self._whole(skipped)
        except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, pa.ArrowException) as error:
            skipped.add_unreadable(f"unreadable ({one_line(error)})", self.source)

    def _rows_of_table(self, skipped: _Notes) -> Iterator[SourceText]:
        with fsspec.open(self.uri, "rb") as file:
            table = pq.ParquetFile(file)
            columns = [c for c in self.columns.wanted if c in table.schema_arrow.names]
            number = sum(table.metadata.row_group(i).num_rows for i in range(self.row_group or 0))
            for batch in table.iter_batches(64, row_groups=[self.row_group or 0], columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    place = self.columns.place(self.source, number, row)
                    yield from _document(place, row, self.columns, skipped)

    def _rows_of_stream(self, skipped: _Notes) -> Iterator[SourceText]:
        number = 0
        with _opened(self.uri) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                wanted = batch.select([c for c in self.columns.wanted if c in batch.schema.names])
                for first in range(0, len(wanted), 64):
                    for row in wanted.slice(first, 64).to_pylist():
                        number += 1
                        place = self.columns.place(self.source, number, row)
                        yield from _document(place, row, self.columns, skipped)

    def _samples(self, skipped: _Notes) -> Iterator[SourceText]:
        with _opened(self.uri) as file, tarfile.open(fileobj=file, mode="r|") as members:
            files = (member for member in members if member.isfile())
            for key, sample in groupby(files, lambda member: _sample_and_suffix(member.name)[0]):
                # Read in passing: the file is a stream.
                content = {
                    _sample_and_suffix(member.name)[1]: _content(members, member)
                    for member in sample
                    if _sample_and_suffix(member.name)[1] in (*TEXT_SUFFIXES, ".json")
                }
                yield from self._sample(f"{self.source}/{key}", content, skipped)

    def _sample(self, place: str, content: Mapping[str, bytes], skipped: _Notes) -> Iterator[SourceText]:
        row: Mapping[str, Any] = {}
        texts = [content[suffix] for suffix in TEXT_SUFFIXES if suffix in content]
        try:
            if ".json" in content and (self.columns.metadata or not texts):
                row = row_of_line(content[".json"])
            if texts:
                row = {**row, self.columns.text: texts[0].decode("utf-8-sig")}
        except (UnreadableTextError, UnicodeDecodeError) as error:
            why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
            skipped.add_unreadable(why, place)
        else:
            yield from _document(place, row, self.columns, skipped)

    def _rows_of_lines(self, skipped: _Notes) -> Iterator[SourceText]:
        with _opened(self.uri) as lines:
            for number, line in enumerate(_lines(lines), start=1):
                if line.strip():
                    try:
                        row = row_of_line(line)
                    except UnreadableTextError as error:
                        skipped.add_unreadable(str(error), f"{self.source}:{number}")
                    else:
                        place = self.columns.place(self.source, number, row)
                        yield from _document(place, row, self.columns, skipped)

    def _whole(self, skipped: _Notes) -> Iterator[SourceText]:
        with _opened(self.uri) as file:
            try:
                text = file.read().decode("utf-8-sig")
            except UnicodeDecodeError:
                skipped.add_unreadable("not UTF-8 text", self.source)
                return
        if "\x00" in text:
            skipped.add_unreadable("binary", self.source)
        elif not text.strip():
            skipped.add("empty", self.source)
        else:
            yield TextInMemory(self.source, text)


@dataclass(frozen=True)
class RowOfFile:
    """One line of a local .jsonl file, which begins at byte `first_byte`."""

    source: str
    path: Path
    first_byte: int
    columns: Columns

    def document(self) -> SourceText:
        """The row's document. Raises UnreadableTextError."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.first_byte)
                row = row_of_line(file.readline())
        except OSError as error:
            raise UnreadableTextError(f"unreadable ({error.strerror})") from error
        name, _, number = self.source.rpartition(":")
        return document_of_row(self.columns.place(name, number, row), row, self.columns)

    def pieces(self) -> Iterator[str]:
        yield from self.document().pieces()


def documents_at(place: SourceText, skipped: _Notes) -> Iterator[SourceText]:
    """The documents of a place in the corpus: of a file of rows many, else one."""
    if isinstance(place, RowFile):
        yield from place.texts(skipped)
    else:
        yield place


def num_row_groups(uri: str) -> int:
    """Row groups of a Parquet file. Raises OSError or ArrowException when it cannot be read."""
    with fsspec.open(uri, "rb") as file:
        return int(pq.read_metadata(file).num_row_groups)


def row_of_line(line: bytes) -> Mapping[str, Any]:
    """The object of a line of JSON. Raises UnreadableTextError for a line that is none."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UnreadableTextError("not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise UnreadableTextError("not JSON") from None
    return row if isinstance(row, dict) else {}


def document_of_row(place: str, row: Mapping[str, Any], columns: Columns) -> SourceText:
    """The document of a row. Raises UnreadableTextError where it has no text, token ids or chat."""
    text, tokens, chat = row.get(columns.text), row.get(TOKENS), row.get(CHAT)
    metadata = _metadata(row, columns.metadata)
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no tokenizer takes
            raise UnreadableTextError("not UTF-8 text") from None
        return TextInMemory(place, text, metadata)
    if isinstance(tokens, list):
        return TokenRow(place, _checked_tokens(tokens), metadata)
    if isinstance(chat, list) and all(isinstance(one, dict) and "role" in one for one in chat):
        return ChatRow(place, chat, metadata)
    raise UnreadableTextError(f'without a string under "{columns.text}"')


def has_nothing(document: SourceText) -> bool:
    """Whether there is nothing in it."""
    if isinstance(document, TokenRow):
        return not len(document.tokens)
    if isinstance(document, ChatRow):
        return not document.messages
    return isinstance(document, TextInMemory) and not document.text.strip()


def _document(place: str, row: Mapping[str, Any], columns: Columns, skipped: _Notes) -> Iterator[SourceText]:
    try:
        found = document_of_row(place, row, columns)
    except UnreadableTextError as error:
        skipped.add_unreadable(str(error), place)
        return
    if has_nothing(found):
        skipped.add("empty", place)
    else:
        yield found


def metadata_of(document: SourceText) -> str | None:
    """What a document's row says of it besides its text, a JSON object."""
    return document.metadata if isinstance(document, TextInMemory | TokenRow | ChatRow) else None


def _metadata(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The columns' values as a JSON object, without NaN and halves of surrogate pairs; None for no value."""
    kept = {column: row[column] for column in columns if row.get(column) is not None}
    kept = {column: value for column, value in kept.items() if value == value}
    if not kept:
        return None
    return json.dumps(kept, ensure_ascii=False, default=str).encode(errors="replace").decode()


def _checked_tokens(tokens: Sequence[Any]) -> Tokens:
    if not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
        raise UnreadableTextError(f'with something else than token ids under "{TOKENS}"')
    return np.asarray(tokens, dtype=np.int32)


def _sample_and_suffix(name: str) -> tuple[str, str]:
    """The sample a member belongs to, and its ending: all from the first dot of its name on."""
    path = PurePosixPath(name)
    stem, dot, ending = path.name.partition(".")
    return str(path.with_name(stem or path.name)), dot + ending


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = members.extractfile(member)
    assert file is not None, "it is a file"
    return file.read()


def _opened(uri: str) -> Any:
    """The file's content as it was before it was compressed; pyarrow knows zstd without another package."""
    if uri.endswith(".zst"):
        return pa.CompressedInputStream(fsspec.open(uri, "rb").open(), "zstd")
    return fsspec.open(uri, "rb", compression="infer")


def _lines(file: Any) -> Iterator[bytes]:
    if isinstance(file, pa.NativeFile):
        rest = b""
        while block := file.read(2**18):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
        yield rest
    else:
        yield from file
