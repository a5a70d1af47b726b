"""Units join to the whole text, in spans of whole tokens."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mctrace.attribution.question import UnitKind
from mctrace.attribution.text_units import leading_tokens, tokenise, unit_ends
from mctrace.errors import ModelError


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def parts(tokenizer, text: str, kind: str) -> list[str]:
    document = tokenise(tokenizer, text)
    ends = unit_ends(document, kind, 4)
    return [document.text_between(first, end) for first, end in zip([0, *ends], ends, strict=False)]


SENTENCES = {
    "plain": ["One. ", "Two! ", "Three?"],
    "quoted": ['He said "no." ', "She left."],
    "abbreviated": ["Dr. Venn met J. Smith, e.g. at noon. ", "Then he left."],
    "a number": ["It is 3.5 m. ", "Yes."],
    "lower case goes on": ["See sec. four. ", "Done."],
    "a heading": ["Heading\n\n", "Text. ", "More."],
    "without spaces": ["一つ。", "二つ！", "三つ"],
    "devanagari": ["पहला। ", "दूसरा।"],
    "ellipsis": ["Well… ", "No."],
    "windows": ["One.\r\n\r\n", "Two."],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(tokenizer, name):
    assert parts(tokenizer, "".join(SENTENCES[name]), "sentence") == SENTENCES[name]


def test_lines_take_the_blank_ones_after_them(tokenizer):
    assert parts(tokenizer, "a\n\n  b\nc", "line") == ["a\n\n", "  b\n", "c"]
    assert parts(tokenizer, "a\nb\n \n\n  c\n", "paragraph") == ["a\nb\n \n\n", "  c\n"]


def test_blocks_are_those_of_the_context(tokenizer):
    document = tokenise(tokenizer, "abcdefghij")
    assert unit_ends(document, "block", 4) == [4, 8, 10]
    assert unit_ends(document, "block", 4, num_leading=1) == [3, 7, 10]
    assert unit_ends(document, "token", 4) == list(range(1, 11))


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from(list("aB .!?\n\t\r。é😀\u202e")), min_size=1, max_size=60))
@pytest.mark.parametrize("kind", get_args(UnitKind))
def test_units_join_to_the_text(tokenizer, kind, text):
    document = tokenise(tokenizer, text)
    ends = unit_ends(document, kind, 4)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(document.tokens)
    assert "".join(parts(tokenizer, text, kind)) == text


def words(**options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if options:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_characters_between_tokens_belong_to_the_one_after_them():
    document = tokenise(words(), "a  b ")
    assert [document.text_between(i, i + 1) for i in range(2)] == ["a", "  b "]


def test_a_beginning_of_sequence_is_what_the_tokenizer_itself_writes():
    assert leading_tokens(words()) == []
    assert leading_tokens(words(bos=True)) == [0]
    assert tokenise(words(bos=True), "a b").tokens.tolist() == [2, 3]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ModelError, match="cannot say which characters"):
        tokenise(object(), "a")
