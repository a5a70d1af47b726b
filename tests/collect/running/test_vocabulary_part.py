"""Texts of token ids, for tokenizers that cut characters in either of the usual ways."""

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.running.vocabulary_part import cut_bytes, write_vocabulary
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.datasets.store.store import create_store

TEXT = "na\u00efve   on \U0001f984 \u4e2d\u6587, 42\n"


def byte_level() -> Tokenizer:
    """Like GPT-2's; two bytes of the unicorn and a space before its first are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "\u00f0"), ("\u00a6", "\u0126")]
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    found = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    return found


def byte_fallback() -> Tokenizer:
    """Like Llama-2's: words with a mark before them, bytes for what it does not know."""
    tokens = [
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"nave,42",
        "\u2581",
        "\u2581\u2581",
        "\u2581n",
        "\u2581,",
    ]
    merges = [("\u2581", "\u2581"), ("\u2581", "n"), ("\u2581", ",")]
    found = Tokenizer(
        BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, byte_fallback=True)
    )
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    found.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return found


@pytest.mark.parametrize(("made", "space"), [(byte_level, ""), (byte_fallback, " ")])
def test_the_store_reads_tokens_as_their_tokenizer_does(tmp_path, made, space):
    folder = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_object=made()).save_pretrained(folder)
    source = ModelSource("model", None, folder)
    tokens = source.load_tokenizer().encode(TEXT, add_special_tokens=False)
    store = create_store(str(tmp_path / "store"))
    store.commit([write_vocabulary(store.location, source, "run")])
    texts = Detokenizer(connect(store.at()))
    assert texts.text(source.tokenizer_hash, tokens) == space + TEXT
    spans = texts.spans(source.tokenizer_hash, tokens, list(range(1, len(tokens) + 1)))
    assert "".join(spans) == space + TEXT
    assert not any("\ufffd" in span for span in spans)


@pytest.mark.parametrize(
    ("piece", "text", "content"),
    [
        ("\u0120word", " word", None),
        ("<0xE2>", "\ufffd", b"\xe2"),
        ("<0x0A>", "\n", None),
        ("\u0120\u00f0", " \ufffd", b" \xf0"),
        ("\u00ef\u00bf\u00bd", "\ufffd", b"\xef\xbf\xbd"),
        ("\u4e2d", "\ufffd", None),
    ],
)  # fmt: skip
def test_bytes_are_kept_of_what_is_no_text_alone(piece, text, content):
    assert cut_bytes(piece, text) == content
