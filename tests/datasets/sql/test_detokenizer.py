"""Token ids to text and back together, whatever a tokenizer cuts."""

import pytest

from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import create_store
from mctrace.errors import StoreError

BYTES = [{"tokenizer_hash": "bytes", "token_id": i} for i in range(256)]
TABLES = {
    "vocabulary": [
        *({**key, "text": chr(i) if i < 128 else "\ufffd"} for i, key in enumerate(BYTES)),
        {"tokenizer_hash": "older", "token_id": 0, "text": " caf\ufffd"},
    ],
    "token_bytes": [{**key, "bytes": bytes([i])} for i, key in enumerate(BYTES) if i >= 128],
}


@pytest.fixture
def connection(tmp_path):
    store = create_store(str(tmp_path / "store"))
    # The second part says the same again, as where an older one was completed.
    for part_id in ("words", "again"):
        store.commit(
            [write_part(store.location, part_id=part_id, kind="vocabulary", run_id="run", tables=TABLES)]
        )
    return connect(store.at())


@pytest.fixture
def texts(connection):
    return Detokenizer(connection)


def test_spans_together_are_the_text_and_no_character_is_cut(texts):
    text = "caf\u00e9 \U0001f984\U0001f984 \u4e2d\u6587 end"
    tokens = list(text.encode())
    assert texts.text("bytes", tokens) == text
    for width in (1, 2, 3, 4, 5, 7):
        ends = [*range(width, len(tokens), width), len(tokens)]
        pieces = texts.spans("bytes", tokens, ends)
        assert len(pieces) == len(ends)
        assert "".join(pieces) == text
        assert "\ufffd" not in "".join(pieces)


def test_what_is_no_text_is_shown_as_such(texts):
    assert texts.spans("bytes", list("a\u00e9".encode())[:-1], [2]) == ["a\ufffd"]
    assert "".join(texts.spans("bytes", [97, 0xFF, 98], [2, 3])).count("\ufffd") == 1
    assert texts.text("bytes", [97, 9999]) == "a\ufffd"
    assert texts.text("bytes", []) == ""
    assert texts.text("older", [0, 0]) == " caf\ufffd caf\ufffd"


def test_a_tokenizer_that_the_store_does_not_know_is_named(texts):
    with pytest.raises(StoreError, match=r"ids of tokenizer another- read as, .* 'mctrace collect'"):
        texts.text("another-tokenizer", [1])


def test_sql_has_the_bytes_of_every_id(connection):
    query = "select text, bytes from vocabulary where tokenizer_hash = 'bytes' and token_id in (65, 200)"
    assert run_user_sql(connection, f"{query} order by token_id").to_pylist() == [
        {"text": "A", "bytes": b"A"}, {"text": "\ufffd", "bytes": b"\xc8"},
    ]  # fmt: skip
