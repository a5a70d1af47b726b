"""Identity, near-duplicates, splits and limits of documents."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import (
    Document,
    DocumentChoice,
    DocumentMaker,
    document_id,
    read_documents,
)
from mctrace.collect.corpus.lazy_texts import TextInMemory
from mctrace.collect.corpus.near_duplicates import BandIndex, bands_of
from mctrace.collect.corpus.split_assigner import (
    BETWEEN_SPLITS,
    Placement,
    SplitAssigner,
    minhash_of,
    split_of,
)
from mctrace.datasets.store.schemas import SPLITS
from mctrace.errors import ConfigError, InputError
from tests.collect.making import random_tokens

EVEN = {"min_tokens": 1, "validation_fraction": 0.33, "test_fraction": 0.33}


class ByteTokenizer:
    """A token for each byte: the only thing `read_documents` needs of a tokenizer is `encode`."""

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())


def texts_of(count: int, num_bytes: int = 200) -> list[TextInMemory]:
    """Texts that have nothing in common."""
    return [
        TextInMemory(f"folder/{i:03d}.txt", bytes(random_tokens(num_bytes, seed=i) % 90 + 32).decode())
        for i in range(count)
    ]


def read(
    texts: list[TextInMemory], skipped: Skipped | None = None, known: dict | None = None, **settings: object
) -> list[Document]:
    config = CorpusConfig(**{**EVEN, **settings})
    assigner = SplitAssigner(config, known or {})
    return list(
        read_documents(
            texts, ByteTokenizer(), "bytes", config, assigner, Skipped() if skipped is None else skipped
        )
    )


def edited(tokens: np.ndarray, *positions: int) -> np.ndarray:
    changed = tokens.copy()
    changed[list(positions)] += 1000
    return changed


def test_a_document_id_is_the_hash_of_its_tokenizer_and_its_little_endian_tokens():
    digest = hashlib.sha256(b"bytes" + b"\x01\0\0\0" + b"\0\x02\0\0" + b"\xff\xff\0\0")
    tokens = np.array([1, 512, 65535], dtype=np.int32)
    assert document_id(tokens, "bytes") == digest.hexdigest()
    assert document_id(tokens.astype(np.int64), "bytes") == digest.hexdigest()
    assert document_id(tokens.astype(">i4"), "bytes") == digest.hexdigest()
    assert document_id(np.repeat(tokens, 2)[::2], "bytes") == digest.hexdigest()


def test_another_token_order_or_tokenizer_makes_another_document():
    tokens = np.array([1, 512, 65535], dtype=np.int32)
    ids = {document_id(tokens, "bytes"), document_id(tokens[::-1], "bytes"), document_id(tokens, "words")}
    assert len(ids) == 3


def test_a_document_holds_its_tokens_source_and_identity():
    (first, *_) = documents = read(texts_of(30))
    text = next(text for text in texts_of(30) if text.source == first.source)
    assert first.tokens.tolist() == list(text.text.encode())
    assert first.document_id == document_id(first.tokens, "bytes")
    assert first.placement.split_group == first.document_id
    assert len(documents) == 30


def test_the_splits_have_the_fractions_asked_for():
    config = CorpusConfig(validation_fraction=0.2, test_fraction=0.1)
    counts = Counter(split_of(f"group {i}", config) for i in range(5000))
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert counts["validation"] / 5000 == pytest.approx(0.2, abs=0.02)
    assert set(counts) == set(SPLITS)


def test_a_larger_test_fraction_only_moves_groups_into_test():
    small, large = CorpusConfig(test_fraction=0.1), CorpusConfig(test_fraction=0.3)
    groups = [f"group {i}" for i in range(500)]
    in_test = {group for group in groups if split_of(group, small) == "test"}
    assert in_test < {group for group in groups if split_of(group, large) == "test"}


def test_near_duplicates_share_their_group_and_split():
    config = CorpusConfig(**EVEN)
    assigner = SplitAssigner(config, {})
    for seed in range(25):
        tokens = random_tokens(400, seed)
        original = assigner.place(f"original {seed}", tokens)
        copy = assigner.place(f"copy {seed}", edited(tokens, 100, 300))
        assert original.split_group == copy.split_group == f"original {seed}"
        assert original.split == copy.split == split_of(f"original {seed}", config)


def test_near_duplicates_of_an_earlier_run_share_its_split_whatever_the_fractions_are_now():
    first_run = SplitAssigner(CorpusConfig(**EVEN), {})
    placed = {f"original {seed}": first_run.place(f"original {seed}", random_tokens(400, seed))
              for seed in range(25)}  # fmt: skip
    assert {placement.split for placement in placed.values()} == set(SPLITS)
    later_config = CorpusConfig(validation_fraction=0.01, test_fraction=0.01)
    later_run = SplitAssigner(later_config, placed)
    for seed in range(25):
        copy = later_run.place(f"copy {seed}", edited(random_tokens(400, seed), 100, 300))
        assert (copy.split_group, copy.split) == (f"original {seed}", placed[f"original {seed}"].split)
        again = later_run.place(f"original {seed}", random_tokens(400, seed))
        kept = placed[f"original {seed}"]
        assert (again.split_group, again.split) == (kept.split_group, kept.split)


def test_a_copy_of_a_copy_stays_in_the_group_of_the_first():
    assigner = SplitAssigner(CorpusConfig(**EVEN), {})
    tokens = random_tokens(400)
    names = ["first", "second", "third", "fourth"]
    for step, name in enumerate(names):
        placement = assigner.place(name, edited(tokens, *range(50, 50 + 60 * step, 60)))
        assert placement.split_group == "first"


def test_documents_with_nothing_in_common_have_groups_of_their_own():
    groups = {document.placement.split_group for document in read(texts_of(40))}
    assert len(groups) == 40


@pytest.mark.parametrize("num_tokens", [1, 3, 8])
def test_documents_shorter_than_a_shingle_can_be_placed(num_tokens):
    assigner = SplitAssigner(CorpusConfig(**EVEN), {})
    one = assigner.place("one", np.arange(num_tokens, dtype=np.int32))
    other = assigner.place("other", np.arange(100, 100 + num_tokens, dtype=np.int32))
    assert (one.split_group, other.split_group) == ("one", "other")


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9, 0.95, 0.99, 1.0])
def test_every_threshold_the_configuration_takes_can_be_used(threshold):
    try:
        config = CorpusConfig(near_duplicate_threshold=threshold)
    except ConfigError:
        assert threshold > 0.95, "128 permutations tell similarities up to 0.95 apart"
        return
    assigner = SplitAssigner(config, {})
    tokens = random_tokens(400)
    assert assigner.place("one", tokens).split_group == "one"
    assert assigner.place("same", tokens).split_group == "one"


def test_identical_documents_are_taken_once():
    skipped = Skipped()
    texts = texts_of(20)
    copies = [TextInMemory(f"copies/{text.source}", text.text) for text in texts[:5]]
    documents = read(texts + copies, skipped)
    assert len({document.document_id for document in documents}) == len(documents) == 20
    assert skipped.counts == {"repeated": 5}


def test_documents_that_differ_only_beyond_max_tokens_are_the_same_document():
    texts = texts_of(20)
    longer = [TextInMemory("longer.txt", texts[0].text + " and more")]
    documents = read(texts + longer, max_tokens=150)
    assert len(documents) == 20
    assert {document.num_tokens for document in documents} == {150}


def test_short_documents_are_left_out_and_counted_under_their_key():
    skipped = Skipped()
    read([*texts_of(20), TextInMemory("short.txt", "short")], skipped, min_tokens=50)
    assert skipped.counts == {"shorter than corpus.min_tokens=50": 1}
    assert skipped.examples["shorter than corpus.min_tokens=50"] == ["short.txt"]


def test_the_order_of_documents_depends_on_the_seed_alone():
    def order(seed: int) -> list[str]:
        return [document.source for document in read(texts_of(20), seed=seed)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1)) == [text.source for text in texts_of(20)]


def test_a_documents_split_does_not_depend_on_seed_limit_or_company():
    everyone = {d.document_id: d.placement.split for d in read(texts_of(40))}
    for some in (read(texts_of(40), seed=5), read(texts_of(40), limit=10), read(texts_of(60)[::-1])):
        assert all(everyone.get(d.document_id, d.placement.split) == d.placement.split for d in some)


def test_a_limit_gives_every_split_its_share_and_at_least_one():
    def counts(**settings: object) -> dict[str, int]:
        return dict(Counter(document.placement.split for document in read(texts_of(60), **settings)))

    assert counts(limit=3) == {"train": 1, "validation": 1, "test": 1}
    assert counts(limit=4, validation_fraction=0.2, test_fraction=0.2) == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert counts(limit=20, validation_fraction=0.2, test_fraction=0.3) == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }


@pytest.mark.parametrize("limit", [3, 4, 5, 10])
@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.49])
def test_never_more_documents_are_taken_than_the_limit(limit, fraction):
    documents = read(texts_of(300, 60), limit=limit, validation_fraction=fraction, test_fraction=fraction)
    assert {document.placement.split for document in documents} == set(SPLITS)
    assert len(documents) <= limit


def test_documents_in_the_store_keep_their_place_in_a_later_run():
    first = read(texts_of(40))
    known = {d.document_id: Placement("kept", "test", d.placement.minhash) for d in first[:5]}
    later = {d.document_id: d.placement for d in read(texts_of(40), known=known)}
    for document in first:
        if document.document_id in known:
            found = later[document.document_id]
            assert (found.split_group, found.split) == ("kept", "test")
        else:
            assert later[document.document_id].split == document.placement.split


def test_an_empty_split_is_refused_by_name_with_what_to_change():
    texts = texts_of(20)
    only_train = [text for text in texts if split_of(_id(text), CorpusConfig(**EVEN)) == "train"]
    assert only_train
    with pytest.raises(
        InputError, match=r"validation and test split is empty with .*validation_fraction=0.3"
    ):
        read(only_train)
    no_train = [text for text in texts if text not in only_train]
    with pytest.raises(InputError, match=r"train split is empty with .* lower corpus.validation_fraction"):
        read(no_train)


def test_a_corpus_without_a_usable_document_is_refused_with_what_was_left_out():
    with pytest.raises(InputError, match="no text file found"):
        read([])
    with pytest.raises(InputError, match=r"no usable document: 2 shorter than corpus.min_tokens=900 \(e.g."):
        read(texts_of(2), min_tokens=900)


def test_the_compact_index_finds_what_datasketch_finds(monkeypatch):
    """Also across the merge of fresh bands into the sorted ones."""
    monkeypatch.setattr("mctrace.collect.corpus.near_duplicates._MOST_FRESH", 300)
    signatures = [
        minhash_of(edited(random_tokens(200, seed % 15), *range(0, (seed // 15) * 20, 4)))
        for seed in range(60)
    ]
    num_bands, band_size = bands_of(0.7, 128)
    index, theirs = BandIndex(num_bands, band_size), MinHashLSH(threshold=0.7, num_perm=128)
    found_any = 0
    for number, signature in enumerate(signatures):
        minhash = MinHash(128, seed=1, scheme="affine32", hashvalues=signature)
        found = index.find(index.keys(signature))
        assert found == set(theirs.query(minhash))
        found_any += bool(found)
        index.add(index.keys(signature), number)
        theirs.insert(number, minhash)
    assert 20 < found_any < 45


def _id(text: TextInMemory) -> str:
    return document_id(np.frombuffer(text.text.encode(), np.uint8).astype(np.int32), "bytes")


def test_a_long_document_has_the_signature_it_always_had(monkeypatch):
    tokens = random_tokens(3000)
    whole = minhash_of(tokens)
    monkeypatch.setattr("mctrace.collect.corpus.split_assigner._SHINGLES_AT_ONCE", 100)
    assert np.array_equal(minhash_of(tokens), whole)


@pytest.mark.parametrize("num_tokens", [1, 3, 8, 9, 5000])
def test_a_signature_is_that_of_datasketch(num_tokens):
    """Stores keep signatures: another way to compute them must not give other ones."""
    tokens = random_tokens(num_tokens, 4)
    expected = MinHash(num_perm=128, seed=1, scheme="affine32")
    shingles = np.lib.stride_tricks.sliding_window_view(tokens, min(8, num_tokens))
    expected.update_batch([shingle.tobytes() for shingle in shingles])
    assert np.array_equal(minhash_of(tokens), expected.hashvalues)


def cut_and_made(text: TextInMemory) -> list[TextInMemory]:
    """A text, and one made of its second half with something else before it."""
    return [
        text,
        TextInMemory(f"made:{text.source}", f"planted {text.text[len(text.text) // 2 :]}", carrier=text),
    ]


def test_a_text_cut_otherwise_and_what_is_made_of_it_stay_on_its_side():
    texts = texts_of(40, num_bytes=600)
    whole = {d.source: d for d in read(texts, max_tokens=4096)}
    for most in (100, 300):
        for document in read([made for text in texts for made in cut_and_made(text)], max_tokens=most):
            carrier = whole[document.source.removeprefix("made:")]
            assert document.num_tokens <= most
            assert document.placement.split == carrier.placement.split
            assert document.placement.split_group == carrier.document_id
    assert {d.placement.split for d in whole.values()} == set(SPLITS)


def test_a_made_document_that_resembles_one_of_another_split_than_its_carrier_is_left_out():
    carrier_text, made_text = cut_and_made(texts_of(1, num_bytes=600)[0])
    config = CorpusConfig(**EVEN)
    made_documents = DocumentMaker(ByteTokenizer(), "bytes", config)([carrier_text, made_text]).documents
    carrier, made = made_documents
    other = next(split for split in SPLITS if split != carrier.placement.split)
    for split, is_kept in ((carrier.placement.split, True), (other, False)):
        skipped = Skipped()
        assigner = SplitAssigner(config, {"older": Placement("older", split, made.placement.minhash)})
        taken = DocumentChoice(config, assigner, skipped).take(made)
        assert (taken is not None) == is_kept
        assert skipped.counts[BETWEEN_SPLITS] == (not is_kept)
