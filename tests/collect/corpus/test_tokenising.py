"""Tokenised in pieces, a text has the token ids it has as a whole; no more is read than that takes."""

import signal
import time
from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import NFKC, Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Split, WhitespaceSplit
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
from mctrace.collect.corpus.tokenising import encode_pieces
from tests.context.strategies import light

SMALL = {"step": 2521, "overlap": 256}
ALPHABET = [
    "a", "b", "the ", "the", " ", "  ", "\n", "\r\n", "\t", "0", "17", "'s", "é", "e\u0301", "漢", "漢字",
    "😀", "👩\u200d👩\u200d👧", "\u3000", "<|endoftext|>", "<|im_start|>", "ﬁ", "\u202e", "__init__", "%" * 9,
]  # fmt: skip


def pieces_of(text: str, size: int = 777) -> Iterator[str]:
    return (text[first : first + size] for first in range(0, len(text), size))


def whole(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


def sample(count: int, seed: int = 0) -> str:
    """Words, digits, spaces, characters of several bytes and special tokens in any order."""
    return "".join(np.random.default_rng(seed).choice(ALPHABET, count))


RUNS = {
    "one letter": "a" * 30_000,
    "one letter, oddly cut": "b" + "a" * 29_999 + "b",
    "two letters": "ab" * 15_000,
    "spaces": " " * 30_000 + "x",
    "spaces at both ends": " " * 9_000 + "the " * 5_000 + " " * 9_000,
    "newlines": "\n" * 30_000,
    "carriage returns": "the a b\r\n" * 4_000,
    "digits": "0123456789" * 3_000 + "7",
    "Chinese": "漢字" * 15_000,
    "letters without a space": "".join(np.random.default_rng(1).choice(list("etaoinshrdlu"), 30_000)),
    "emoji": "😀👩\u200d👩\u200d👧" * 5_000,
    "combining": "e" + "\u0301" * 30_000,
    "special tokens": "<|endoftext|>" * 3_000,
    "mixed": sample(15_000),
    "short": "the end",
    "empty": "",
}


def trained(normalizer=None, pre_tokenizer=None, model: str = "bpe") -> PreTrainedTokenizerFast:
    """A tokenizer of its own kind, with merges that this module's texts use."""
    made = Tokenizer(BPE() if model == "bpe" else WordPiece(unk_token="[UNK]"))
    if normalizer:
        made.normalizer = normalizer
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    kind = BpeTrainer if model == "bpe" else WordPieceTrainer
    trainer = kind(vocab_size=400, special_tokens=["[UNK]", "<|endoftext|>"], show_progress=False)
    made.train_from_iterator([sample(4_000, 7), "a" * 64, " " * 64, "0123456789" * 9], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


TOKENIZERS = {
    "byte level": lambda: trained(pre_tokenizer=ByteLevel(add_prefix_space=False)),
    "one word of everything": lambda: trained(Sequence([Prepend("▁"), Replace(" ", "▁")])),
    "digits in threes from the right": lambda: trained(
        pre_tokenizer=Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))"), "isolated")
    ),
    "composed": lambda: trained(NFKC(), ByteLevel(add_prefix_space=True)),
    "long words are unknown": lambda: trained(pre_tokenizer=WhitespaceSplit(), model="wordpiece"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def smollm2():
    return resolve_model(SMOLLM2_ALIAS).load_tokenizer()


@pytest.mark.parametrize("name", RUNS)
def test_any_kind_of_tokenizer_gives_the_same_ids_in_pieces(tokenizer, name):
    expected = whole(tokenizer, RUNS[name])
    for most in (10**9, len(expected) // 3):
        assert encode_pieces(tokenizer, pieces_of(RUNS[name]), most, **SMALL).tolist() == expected[:most]


@pytest.mark.real_model
@pytest.mark.parametrize("name", RUNS)
def test_the_real_tokenizer_gives_the_same_ids_in_pieces(smollm2, name):
    expected = whole(smollm2, RUNS[name])
    for most in (10**9, len(expected) // 3):
        assert encode_pieces(smollm2, pieces_of(RUNS[name]), most, **SMALL).tolist() == expected[:most]


@pytest.mark.real_model
def test_real_text_has_the_same_ids_with_the_sizes_in_use(smollm2):
    import argparse
    import inspect

    text = inspect.getsource(argparse) * 4
    assert len(text) > 300_000
    expected = whole(smollm2, text)
    assert encode_pieces(smollm2, pieces_of(text, 60_000), 10**9).tolist() == expected
    assert encode_pieces(smollm2, pieces_of(text, 60_000), 2000).tolist() == expected[:2000]


@light
@given(
    st.lists(st.tuples(st.sampled_from(ALPHABET), st.integers(1, 3_000)), min_size=1, max_size=8),
    st.integers(1, 5_000),
    st.integers(100, 9_000),
)
def test_runs_of_anything_have_the_same_ids_in_pieces(runs, piece, most):
    text = "".join(part * count for part, count in runs)
    tokenizer = _byte_level()
    found = encode_pieces(tokenizer, pieces_of(text, piece), most, **SMALL)
    assert found.tolist() == whole(tokenizer, text)[:most]


def _byte_level(made: list[PreTrainedTokenizerFast] = []) -> PreTrainedTokenizerFast:  # noqa: B006
    if not made:
        made.append(TOKENIZERS["byte level"]())
    return made[0]


class Counting:
    """A tokenizer that remembers the longest text it was given."""

    is_fast = True

    def __init__(self, inner) -> None:
        self._inner, self.longest, self.total = inner, 0, 0

    def _see(self, text: str) -> None:
        self.longest = max(self.longest, len(text))
        self.total += len(text)

    def encode(self, text: str, **settings: object) -> list[int]:
        self._see(text)
        return self._inner.encode(text, **settings)

    def __call__(self, text: str, **settings: object):
        self._see(text)
        return self._inner(text, **settings)


def test_no_more_is_read_than_the_ids_take_and_no_more_is_encoded_at_once_than_a_piece():
    taken = 0

    def pieces() -> Iterator[str]:
        nonlocal taken
        while True:  # a file without an end
            taken += 1000
            yield sample(300, taken)[:1000].ljust(1000, "x")

    counting = Counting(_byte_level())
    assert len(encode_pieces(counting, pieces(), 500, **SMALL)) == 500
    assert taken < 9_000
    long = sample(100_000)
    encode_pieces(counting, pieces_of(long), 10**9, **SMALL)
    assert counting.longest < 4 * SMALL["step"]


def test_a_signal_interrupts_the_tokenising_of_an_endless_text():
    class Asked(BaseException):  # as KeyboardInterrupt is: no library's `except Exception` takes it
        pass

    def ask(signum: int, frame: object) -> None:
        raise Asked

    before = signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 1)  # again each second: Python drops what a destructor raises
    started = time.perf_counter()
    try:
        with pytest.raises(Asked):
            encode_pieces(_byte_level(), cycle([sample(3_000)]), 10**9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - started < 3


def test_a_text_that_can_be_cut_nowhere_is_encoded_a_few_times():
    counting = Counting(TOKENIZERS["long words are unknown"]())
    text = "a" * 300_000
    assert encode_pieces(counting, pieces_of(text), 10**9, **SMALL).tolist() == whole(counting, text)
    assert counting.total < 9 * len(text)


def test_what_is_kept_is_no_view_of_more():
    found = encode_pieces(_byte_level(), pieces_of(sample(9_000)), 10, **SMALL)
    assert found.base is None
    assert found.nbytes == 40
