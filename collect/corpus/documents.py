"""Documents of a corpus: texts tokenised, identified by their tokens, placed in a split, up to a limit."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.lazy_texts import SourceText, UnreadableTextError
from mctrace.collect.corpus.splits import BETWEEN_SPLITS, Placement, SplitAssigner
from mctrace.collect.corpus.tokenising import encode_pieces
from mctrace.datasets.store.schemas import SPLITS
from mctrace.errors import InputError


@dataclass(frozen=True)
class Document:
    """Tokenised document with its split."""

    document_id: str
    source: str
    tokens: npt.NDArray[np.int32]
    tokenizer_hash: str
    placement: Placement

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


def document_id(tokens: npt.NDArray[np.int32], tokenizer_hash: str) -> str:
    """sha256 of the token ids (little-endian int32) with the tokenizer's hash."""
    digest = hashlib.sha256(tokenizer_hash.encode())
    digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
    return digest.hexdigest()


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
    test on; documents beyond their split's quota are skipped. Raises InputError when nothing is left, or
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
