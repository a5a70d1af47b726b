"""Corpus reader: which files are read, in which order, and how skipped and refused ones are reported."""

import gzip
import io
import json
import lzma
import os
import sys
import tarfile
from datetime import date
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import PYDOC_TOPICS, STDLIB, Skipped, read_corpus
from mctrace.collect.corpus.documents import Document, DocumentMaker
from mctrace.collect.corpus.lazy_texts import TextInMemory, UnreadableTextError, whole_text
from mctrace.collect.corpus.row_files import Columns, document_of_row, documents_at, metadata_of
from mctrace.errors import InputError

OTHERS = "not .txt .md .py .jsonl .parquet .arrow .tar, or .gz .xz .zst of them"


def read(*paths: Path | str, strict: bool = False) -> tuple[list[TextInMemory], Skipped]:
    skipped = Skipped(strict)
    texts = read_corpus([str(path) for path in paths], skipped)
    return [TextInMemory(text.source, whole_text(text)) for text in texts], skipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts" / "inner").mkdir(parents=True)
    return tmp_path / "texts"


def test_a_folder_gives_its_text_files_at_any_depth_by_name(folder):
    for name in ("b.md", "a.txt", "inner/c.py", "d.rst", "e.png", "noending"):
        (folder / name).write_text(f"this is {name}")
    (folder / "f.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (folder / "folder.txt").mkdir()
    texts, skipped = read(folder)
    assert texts == [
        TextInMemory("texts/a.txt", "this is a.txt"),
        TextInMemory("texts/b.md", "this is b.md"),
        TextInMemory("texts/f.jsonl:1", "one"),
        TextInMemory("texts/f.jsonl:2", "two"),
        TextInMemory("texts/inner/c.py", "this is inner/c.py"),
    ]
    assert skipped.counts == {OTHERS: 3}
    assert skipped.examples[OTHERS] == ["texts/d.rst", "texts/e.png", "texts/noending"]


def test_the_order_of_texts_does_not_depend_on_the_order_in_which_files_were_made(tmp_path):
    names = [f"{name}.txt" for name in "qjzamxbe"]
    for place, order in (("one", names), ("two", names[::-1])):
        (tmp_path / place / "texts").mkdir(parents=True)
        for name in order:
            (tmp_path / place / "texts" / name).write_text(name)
    assert read(tmp_path / "one" / "texts") == read(tmp_path / "two" / "texts")


def test_paths_are_read_in_the_order_given(folder):
    (folder / "a.txt").write_text("first by name")
    (folder / "inner" / "b.txt").write_text("first by path")
    texts, _ = read(folder / "inner", folder / "a.txt")
    assert [text.text for text in texts] == ["first by path", "first by name"]


def test_a_single_file_is_named_by_its_name(folder):
    (folder / "a.txt").write_text("text")
    (folder / "b.jsonl").write_text('\n{"text": "row"}\n')
    texts, _ = read(folder / "a.txt", folder / "b.jsonl")
    assert [text.source for text in texts] == ["a.txt", "b.jsonl:2"]


def test_the_current_folder_has_a_name_too(folder, monkeypatch):
    (folder / "a.txt").write_text("text")
    monkeypatch.chdir(folder)
    texts, _ = read(".")
    assert [text.source for text in texts] == ["texts/a.txt"]


def test_what_is_not_text_is_left_out_and_counted_with_an_example(folder):
    (folder / "empty.txt").write_text("")
    (folder / "blank.md").write_text(" \n\t\n")
    (folder / "binary.txt").write_bytes(b"a\x00b")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "rows.jsonl").write_text('{"text": "  "}\n{"text": "kept"}\n')
    texts, skipped = read(folder)
    assert [text.text for text in texts] == ["kept"]
    assert skipped.counts == {"empty": 3, "binary": 1, "not UTF-8 text": 1}
    assert skipped.examples["empty"] == ["texts/blank.md", "texts/empty.txt", "texts/rows.jsonl:1"]
    assert "1 not UTF-8 text (e.g. texts/latin.txt)" in str(skipped)


def test_rows_of_jsonl_are_documents_and_blank_lines_are_not(folder):
    rows = [{"text": "eins", "lang": "de"}, {"id": 7, "text": "zwei\nZeilen"}]
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(rows[0]), "", json.dumps(rows[1]), ""]))
    texts, _ = read(folder)
    assert [(text.source, text.text) for text in texts] == [
        ("texts/rows.jsonl:1", "eins"),
        ("texts/rows.jsonl:3", "zwei\nZeilen"),
    ]


def test_rows_of_jsonl_end_at_newlines_only(folder):
    """JSON strings may hold the other characters that end a line for `str.splitlines`."""
    text = "one\u2028two\u2029three\x85four"
    (folder / "rows.jsonl").write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\r\n")
    texts, _ = read(folder)
    assert [found.text for found in texts] == [text]


def test_a_byte_order_mark_is_not_part_of_the_text(folder):
    (folder / "a.txt").write_text("text", encoding="utf-8-sig")
    (folder / "b.jsonl").write_text('{"text": "row"}', encoding="utf-8-sig")
    texts, _ = read(folder)
    assert [text.text for text in texts] == ["text", "row"]


def test_a_row_that_no_text_can_be_made_of_is_left_out(folder):
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    (folder / "rows.jsonl").write_text('{"text": "half \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n')
    texts, skipped = read(folder)
    assert [text.text for text in texts] == ["whole \N{GRINNING FACE}"]
    assert skipped.counts == {"not UTF-8 text": 1}


BAD_LINES = [
    (b'{"text": ', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"text": "\xff"}', "not UTF-8 text"),
    (b'["text"]', 'without a string under "text"'),
    (b'{"body": "x"}', 'without a string under "text"'),
    (b'{"text": null}', 'without a string under "text"'),
    (b'{"text": 7}', 'without a string under "text"'),
]


@pytest.mark.parametrize(("line", "why"), BAD_LINES)
def test_a_bad_row_of_jsonl_is_left_out_by_its_line_and_stops_a_strict_corpus(folder, line, why):
    (folder / "rows.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "better"}\n')
    texts, skipped = read(folder)
    assert [(text.source, text.text) for text in texts] == [
        ("texts/rows.jsonl:1", "good"),
        ("texts/rows.jsonl:4", "better"),
    ]
    assert str(skipped) == f"1 {why} (e.g. texts/rows.jsonl:3)"
    with pytest.raises(InputError, match=f"rows.jsonl:3: {why}; fix it.*corpus.strict"):
        read(folder, strict=True)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"good " * 99_999 + b"\xe2\x82", b"a\x00b"])
def test_a_file_that_is_no_text_is_left_out_and_stops_a_strict_corpus(folder, content):
    (folder / "a.txt").write_bytes(content)
    (folder / "b.txt").write_text("good")
    texts, skipped = read(folder)
    assert [text.text for text in texts] == ["good"]
    assert list(skipped.examples.values()) == [["texts/a.txt"]]
    with pytest.raises(InputError, match=r"texts/a\.txt: .*corpus\.strict"):
        read(folder, strict=True)


def test_a_strict_corpus_may_have_empty_files_and_other_kinds(folder):
    for name in ("a.txt", "b.png", "c.jsonl"):
        (folder / name).write_text("")
    assert read(folder, strict=True)[0] == []


def test_what_no_text_file_is_is_named(folder):
    os.mkfifo(folder / "pipe.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "gone.md").symlink_to(folder / "nothing")
    (folder / "up").symlink_to(folder)
    (folder / "good.txt").write_text("good")
    texts, skipped = read(folder)
    assert [text.text for text in texts] == ["good"]
    assert dict(skipped.examples) == {
        "links to folders, which are not followed": ["texts/up"],
        "unreadable (No such file or directory)": ["texts/gone.md"],
        "unreadable (Too many levels of symbolic links)": ["texts/loop.txt"],
        "neither file nor folder": ["texts/pipe.txt"],
    }


def test_names_of_any_bytes_become_sources_of_one_line(folder):
    names = ("a\nb.txt", b"caf\xe9.txt", "d\u00e9j\u00e0 \u6f22.txt", "[bold]x[-y].txt", "\x1b[31m.txt")
    for name in map(os.fsencode, names):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("text")
    texts, _ = read(folder)
    sources = [text.source.removeprefix("texts/") for text in texts]
    assert sorted(sources) == sorted(
        [r"a\nb.txt", r"caf\xe9.txt", "d\u00e9j\u00e0 \u6f22.txt", "[bold]x[-y].txt", r"\x1b[31m.txt"]
    )
    assert all(source.encode() and source.isprintable() for source in sources)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("x" * 300 + ".txt", "File name too long"),
        ("y/" * 3000 + "a.txt", "File name too long"),
        ("a\0b.txt", "embedded null"),
        ("~nobody-of-this-name/x", "home directory"),
        ("", "a corpus path is empty"),
        ("loop", "Too many levels of symbolic links"),
        ("pipe", "neither a file nor a folder"),
        ("/dev/null", "neither a file nor a folder"),
        ("line\nbreak", r"'line\\nbreak' does not exist"),
        ("caf\udce9", r"'caf\\udce9' does not exist"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused_in_a_short_line(folder, monkeypatch, path, why):
    monkeypatch.chdir(folder)
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=why) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_folders_that_cannot_be_listed_are_named(folder, monkeypatch):
    (folder / "good.txt").write_text("good")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    texts, skipped = read(folder)
    assert [text.text for text in texts] == ["good"]
    assert dict(skipped.examples) == {"unreadable (Permission denied)": ["texts/inner"]}
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read(folder / "inner")


def test_a_text_is_read_in_pieces_and_again_whenever_it_is_asked_for(folder):
    """Characters of several bytes lie across the pieces' ends."""
    content = "\N{GRINNING FACE}漢é" * 100_000
    (folder / "long.txt").write_text("\ufeff" + content, encoding="utf-8")
    (text,) = read_corpus([str(folder)], Skipped())
    pieces = list(text.pieces())
    assert len(pieces) > 2
    assert "".join(pieces) == content == whole_text(text)
    (folder / "long.txt").unlink()
    with pytest.raises(UnreadableTextError, match="No such file"):
        whole_text(text)


def test_a_path_that_is_not_there_is_refused_by_name(folder):
    with pytest.raises(InputError, match=r"corpus path '.*/absent' does not exist"):
        read(folder / "absent")


def test_a_single_file_that_is_not_text_is_refused_with_the_endings_that_are(folder):
    (folder / "a.pdf").write_text("text")
    with pytest.raises(InputError, match=r"a\.pdf': expected one of \.txt .* \.parquet .*, got '\.pdf'"):
        read(folder / "a.pdf")


def test_no_path_at_all_is_refused_with_what_to_give():
    with pytest.raises(InputError, match=r"--corpus, or set corpus\.paths .*'stdlib'"):
        read()


def test_the_standard_library_is_a_corpus_without_tests_and_installed_packages(folder, monkeypatch):
    kept = ("argparse.py", "json/decoder.py", "testing.py")
    left_out = ("site-packages/torch/nn.py", "test/test_json.py", "unittest/test/case.py", "encodings/cp1.py")
    for name in (*kept, *left_out):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.setattr("sysconfig.get_path", lambda name: {"stdlib": str(folder)}[name])
    texts, _ = read(STDLIB)
    assert [text.source for text in texts] == [f"stdlib/{name}" for name in kept]


def test_the_reference_topics_are_a_corpus():
    texts, _ = read(PYDOC_TOPICS)
    assert len(texts) > 50
    assert [text.source for text in texts] == sorted(text.source for text in texts)
    assert all(text.source.startswith("pydoc-topics/") for text in texts)


ROWS = [{"text": "one", "body": "eins"}, {"text": "two", "body": "zwei"}, {"text": "", "body": None}]


def documents(*paths: object, column: str = "text") -> tuple[list[tuple[str, str]], Skipped]:
    """Source and text of every document, files of rows read as well."""
    skipped = Skipped()
    places = read_corpus([str(path) for path in paths], skipped, Columns(column))
    found = [one for place in places for one in documents_at(place, skipped)]
    return [(one.source, whole_text(one)) for one in found], skipped


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize(
    ("ending", "compress"), [("gz", gzip.compress), ("xz", lzma.compress), ("zst", zstd)]
)
def test_compressed_files_are_what_they_were_before(folder, ending, compress):
    (folder / f"a.txt.{ending}").write_bytes(compress(b"text"))
    (folder / f"b.jsonl.{ending}").write_bytes(compress(lines(ROWS)))
    (folder / f"c.jsonl.{ending}").write_bytes(b"no archive")
    (folder / f"d.{ending}").write_bytes(compress(b"of what kind?"))
    found, skipped = documents(folder)
    assert found == [
        (f"texts/a.txt.{ending}", "text"),
        (f"texts/b.jsonl.{ending}:1", "one"),
        (f"texts/b.jsonl.{ending}:2", "two"),
    ]
    assert skipped.counts.total() == 3
    assert skipped.examples["empty"] == [f"texts/b.jsonl.{ending}:3"]
    assert skipped.examples[OTHERS] == [f"texts/d.{ending}"]
    assert any(f"texts/c.jsonl.{ending}" in examples for examples in skipped.examples.values())


def test_a_parquet_file_is_read_by_row_groups_under_the_column_asked_for(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=1)
    (folder / "damaged.parquet").write_bytes(b"PAR1 and no more")
    found, skipped = documents(folder, column="body")
    assert found == [("texts/rows.parquet:1", "eins"), ("texts/rows.parquet:2", "zwei")]
    assert skipped.examples['without a string under "body"'] == ["texts/rows.parquet:3"]
    assert any("texts/damaged.parquet" in examples for examples in skipped.examples.values())


def shard(files: dict[str, bytes]) -> bytes:
    """A tar file with these files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return content.getvalue()


def write_rows(folder: Path, kind: str, rows: list[dict[str, object]]) -> None:
    """A file of these rows in `folder`."""
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    elif kind == "arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(folder / "rows.arrow", table.schema) as stream:
            stream.write_table(table)
    elif kind == "tar":
        files = {f"{i}.txt": str(row["text"]).encode() for i, row in enumerate(rows)}
        files |= {f"{i}.json": json.dumps(row).encode() for i, row in enumerate(rows)}
        (folder / "rows.tar").write_bytes(shard(dict(sorted(files.items()))))
    else:
        content = lines(rows)
        (folder / f"rows.{kind}").write_bytes(gzip.compress(content) if kind.endswith("gz") else content)


def made_of(folder: Path, columns: Columns) -> tuple[Document, ...]:
    """Documents of a folder, as a run makes them."""
    places = read_corpus([str(folder)], Skipped(), columns)
    return DocumentMaker(Template(), "template", CorpusConfig(min_tokens=1))(list(places)).documents


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "arrow", "tar"])
def test_columns_asked_for_stay_with_their_documents(folder, kind):
    rows = [
        {"text": "one", "language": "de", "stars": 3, "author": {"name": "A\u2028"}},
        {"text": "two", "language": None, "stars": 4, "author": None},
        {"text": "three", "language": None, "stars": None, "author": None},
    ]
    write_rows(folder, kind, rows)
    first, second, third = made_of(folder, Columns(metadata=("language", "author", "absent")))
    assert json.loads(first.metadata) == {"language": "de", "author": {"name": "A\u2028"}}
    assert (second.metadata, third.metadata) == (None, None)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "arrow"])
def test_a_row_is_named_by_its_own_id_where_it_has_one(folder, kind):
    write_rows(folder, kind, [{"text": text, "id": own} for text, own in (("a", "x/1\n"), ("b", None))])
    named = made_of(folder, Columns(id="id"))
    assert [one.source for one in named] == [f"texts/rows.{kind}:x/1\\n", f"texts/rows.{kind}:2"]


def test_metadata_is_json_whatever_the_row_holds():
    row = {"text": "t", "nan": float("nan"), "half": "\ud83e", "when": date(2026, 1, 2)}
    found = document_of_row("a", row, Columns(metadata=("nan", "half", "when")))
    assert json.loads(metadata_of(found)) == {"half": "?", "when": "2026-01-02"}


def test_a_uri_is_read_by_whatever_opens_it_and_other_kinds_are_named():
    files = fsspec.filesystem("memory")
    files.pipe({"/bucket/a.jsonl": lines(ROWS[:2]), "/bucket/in/b.txt": b"text", "/bucket/c.png": b""})
    try:
        found, skipped = documents("memory://bucket")
        assert [text for _, text in found] == ["one", "two", "text"]
        assert found[2][0].endswith("/bucket/in/b.txt")
        assert [one.rpartition("/")[2] for one in skipped.examples[OTHERS]] == ["c.png"]
        with pytest.raises(InputError, match="memory://nowhere' does not exist"):
            documents("memory://nowhere")
        with pytest.raises(InputError, match="nonsense://x' cannot be read"):
            documents("nonsense://x")
    finally:
        files.rm("/bucket", recursive=True)


def test_a_hugging_face_dataset_in_a_folder_is_read_as_it_was_saved(folder):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    found, skipped = documents(folder)
    assert [text for _, text in found] == ["one", "two"]
    assert [source.partition("/data-")[0] for source, _ in found] == ["texts/saved", "texts/saved"]
    assert {Path(one).name for one in skipped.examples[OTHERS]} == {"dataset_info.json", "state.json"}


@pytest.mark.parametrize(("ending", "compress"), [("", bytes), (".gz", gzip.compress)])
def test_samples_of_a_webdataset_shard_are_documents(folder, ending, compress):
    files = {
        "a/0001.txt": b"one", "a/0001.json": b'{"text": "metadata"}', "a/0001.seg.png": b"\x89",
        "a/0002.json": b'{"text": "two"}', "a/0003.jpg": b"", "a/0004.txt": b"\xff",
    }  # fmt: skip
    (folder / f"shard-0.tar{ending}").write_bytes(compress(shard(files)))
    (folder / f"shard-1.tar{ending}").write_bytes(b"no archive")
    found, skipped = documents(folder)
    place = f"texts/shard-0.tar{ending}/a"
    assert found == [(f"{place}/0001", "one"), (f"{place}/0002", "two")]
    assert skipped.examples['without a string under "text"'] == [f"{place}/0003"]
    assert skipped.examples["not UTF-8 text"] == [f"{place}/0004"]
    assert any(f"shard-1.tar{ending}" in one for named in skipped.examples.values() for one in named)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain text\n", [("-", "plain text\n")]),
        (lines(ROWS[:2]), [("-:1", "one"), ("-:2", "two")]),
        (b"", []),
    ],
)
def test_standard_input_is_a_text_or_json_lines(monkeypatch, content, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert documents("-")[0] == expected


class Template:
    """As much of a tokenizer as a chat needs."""

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{one['role']}>{one['content']}" for one in messages)

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        return list(text.encode())


def test_token_ids_and_chats_are_documents_too(folder):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    rows = [{"input_ids": [5, 0, 7, 9]}, {"messages": chat}, {"input_ids": [1, -1]}, {"messages": "no"}]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    pq.write_table(pa.Table.from_pylist([{"messages": None, **rows[0]}, rows[1]]), folder / "rows.parquet")
    skipped = Skipped()
    maker = DocumentMaker(Template(), "template", CorpusConfig(min_tokens=1, max_tokens=3))
    made = maker(list(read_corpus([str(folder)], skipped)))
    assert [one.tokens.tolist() for one in made.documents] == 2 * [[5, 0, 7], list(b"<us")]
    assert skipped.examples['with something else than token ids under "input_ids"'] == ["texts/rows.jsonl:3"]
    assert skipped.examples['without a string under "text"'] == ["texts/rows.jsonl:4"]
    whole = DocumentMaker(Template(), "template", CorpusConfig(min_tokens=1))
    (_, written) = whole(list(read_corpus([str(folder / "rows.jsonl")], skipped))).documents
    assert bytes(written.tokens.tolist()) == b"<user>hi<assistant>yes"
