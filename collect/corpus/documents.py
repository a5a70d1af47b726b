"""From text to documents: token ids, identity, near-duplicate groups and the split each document is in.

Splits are decided once, by a hash of the document's near-duplicate group, so that copies of a file never end
up on both sides. GistNet and LensNet share them.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.source_text import SourceText, UnreadableTextError
from mctrace.collect.corpus.sources import Skipped
from mctrace.collect.corpus.tokenising import encode_pieces
from mctrace.datasets.store.schemas import SPLITS
from mctrace.errors import InputError

BETWEEN_SPLITS = "near-duplicates of documents in two splits"
"""Why a document is left out that can be on neither side of a split."""
_SHINGLE = 8
_SHINGLES_AT_ONCE = 4096
_MINHASH = {"num_perm": 128, "seed": 1, "scheme": "affine32"}
"""Part of the store's format: signatures of different schemes cannot be compared."""


@dataclass(frozen=True)
class Document:
    """A tokenised document with its place among the splits."""

    document_id: str
    source: str
    tokens: npt.NDArray[np.int32]
    tokenizer_hash: str
    placement: "Placement"

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


def document_id(tokens: npt.NDArray[np.int32], tokenizer_hash: str) -> str:
    """sha256 of the token ids (little-endian int32) with the tokenizer's hash."""
    digest = hashlib.sha256(tokenizer_hash.encode())
    digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
    return digest.hexdigest()


def split_of(split_group: str, config: CorpusConfig) -> str:
    """The split of a near-duplicate group: a uniform number from its hash against the fractions."""
    uniform = int.from_bytes(hashlib.sha256(f"split {split_group}".encode()).digest()[:8]) / 2**64
    if uniform < config.test_fraction:
        return "test"
    return "validation" if uniform < config.test_fraction + config.validation_fraction else "train"


@dataclass(frozen=True)
class Placement:
    """Where a document stands: kept in the store, so that later runs find its near-duplicates.

    `split_group` is the id of the first document of its near-duplicate group, `minhash` the signature of its
    token 8-grams.
    """

    split_group: str
    split: str
    minhash: npt.NDArray[np.uint32]


class SplitAssigner:
    """Gives each document its near-duplicate group and split; knows the documents already in the store."""

    def __init__(self, config: CorpusConfig, known: Mapping[str, Placement]) -> None:
        self._config = config
        self._index = MinHashLSH(threshold=config.near_duplicate_threshold, num_perm=_MINHASH["num_perm"])
        self._placed: dict[str, Placement] = {}
        for identity, placement in known.items():
            self._remember(identity, placement)

    @property
    def bands(self) -> tuple[int, int]:
        """How many bands of how many values of a signature are compared; documents that share a whole one
        are near-duplicates."""
        return int(self._index.b), int(self._index.r)

    def place(self, identity: str, tokens: npt.NDArray[np.int32]) -> Placement | None:
        """The placement of a document; the same answer for the same document ever after.

        None for one that stands between two splits: it is a near-duplicate of documents on both sides.
        """
        if identity in self._placed:
            return self._placed[identity]
        alone = Placement(identity, split_of(identity, self._config), minhash_of(tokens))
        return self.place_as(identity, alone)

    def place_as(self, identity: str, intended: Placement) -> Placement | None:
        """The same for a document that is placed as `intended` where none of those placed already is near."""
        if identity not in self._placed:
            near = sorted(self._index.query(_as_minhash(intended.minhash)))
            if len({self._placed[one].split for one in near}) > 1:
                return None
            if near:
                like = self._placed[near[0]]
                intended = replace(intended, split_group=like.split_group, split=like.split)
            self._remember(identity, intended)
        return self._placed[identity]

    def _remember(self, identity: str, placement: Placement) -> None:
        self._placed[identity] = placement
        self._index.insert(identity, _as_minhash(placement.minhash))


def read_documents(
    texts: Iterable[SourceText],
    tokenizer: Any,
    tokenizer_hash: str,
    config: CorpusConfig,
    assigner: SplitAssigner,
    skipped: Skipped,
    needs: Sequence[str] = SPLITS,
) -> Iterator[Document]:
    """Tokenised documents in seeded order, at most `config.limit` with every split represented.

    With a limit each split has a quota (at least one), so a small run still has something to validate and
    test on; documents beyond their split's quota are passed over. Raises InputError when nothing is left, or
    when one of the splits that the caller `needs` stays empty.
    """
    quotas = _quotas(config)
    taken = dict.fromkeys(SPLITS, 0)
    seen: set[str] = set()
    ordered = list(texts)  # places of texts, not their contents
    random.Random(f"corpus {config.seed}").shuffle(ordered)
    for text in ordered:
        if quotas and all(taken[split] >= quotas[split] for split in SPLITS):
            break
        try:
            tokens = encode_pieces(tokenizer, text.pieces(), config.max_tokens)
        except UnreadableTextError as error:  # it could be read a moment ago
            skipped.add_unreadable(str(error), text.source)
            continue
        if len(tokens) < config.min_tokens:
            skipped.add(f"shorter than corpus.min_tokens={config.min_tokens}", text.source)
            continue
        identity = document_id(tokens, tokenizer_hash)
        if identity in seen:
            skipped.add("repeated", text.source)
            continue
        seen.add(identity)
        placement = assigner.place(identity, tokens)
        if placement is None:
            skipped.add(BETWEEN_SPLITS, text.source)
            continue
        if quotas and taken[placement.split] >= quotas[placement.split]:
            continue
        taken[placement.split] += 1
        yield Document(identity, text.source, tokens, tokenizer_hash, placement)
    _refuse_empty(taken, skipped, needs)


def _quotas(config: CorpusConfig) -> Mapping[str, int]:
    if config.limit is None:
        return {}
    test = max(1, round(config.limit * config.test_fraction))
    validation = max(1, min(round(config.limit * config.validation_fraction), config.limit - test - 1))
    return {"test": test, "validation": validation, "train": config.limit - test - validation}


def _refuse_empty(taken: Mapping[str, int], skipped: Skipped, needs: Sequence[str]) -> None:
    if not any(taken.values()):
        raise InputError(f"the corpus has no usable document: {skipped or 'no text file found'}")
    empty = [split for split in needs if not taken[split]]
    if empty:
        raise InputError(
            f"the {' and '.join(empty)} split is empty with {sum(taken.values())} documents: "
            "add documents, or change corpus.validation_fraction / corpus.test_fraction"
            + (f" ({skipped})" if skipped.counts else "")
        )


def minhash_of(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
    """The signature of a document's token 8-grams [128]."""
    shingles = np.lib.stride_tricks.sliding_window_view(tokens, min(_SHINGLE, len(tokens)))
    minhash = MinHash(**_MINHASH)
    for first in range(0, len(shingles), _SHINGLES_AT_ONCE):
        minhash.update_batch([one.tobytes() for one in shingles[first : first + _SHINGLES_AT_ONCE]])
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


def _as_minhash(signature: npt.NDArray[np.uint32]) -> MinHash:
    return MinHash(**_MINHASH, hashvalues=signature)
