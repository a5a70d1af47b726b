"""Documents of a corpus: texts tokenised, identified by their tokens, placed in a split, up to a limit.

A document that is cut or made from a carrier is in the split of what it comes from, its *origin*: the first
`ORIGIN_TOKENS` of the text, whatever `corpus.max_tokens` is. So one text cut in two ways, and a recall
document made of it, are all on one side.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.lazy_texts import SourceText, TextInMemory, UnreadableTextError
from mctrace.collect.corpus.row_files import ChatRow, RowOfFile, TokenRow, documents_at, metadata_of
from mctrace.collect.corpus.split_assigner import (
    BETWEEN_SPLITS,
    Origin,
    Placement,
    SplitAssigner,
    placed_alone,
)
from mctrace.collect.corpus.tokenising import encode_pieces
from mctrace.datasets.store.schemas import SPLITS
from mctrace.errors import InputError, one_line

ORIGIN_TOKENS = 16_384
"""by which a text's split is decided; as many as the shipped GistNet's documents were cut to"""


@dataclass(frozen=True)
class Document:
    """Tokenised document with its split."""

    document_id: str
    source: str
    tokens: npt.NDArray[np.int32]
    tokenizer_hash: str
    placement: Placement
    metadata: str | None = None
    """columns of its row that the corpus keeps, a JSON object"""
    origin: Origin | None = None
    """what decides the split of a document that is cut or made from another; None: the document itself"""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


def document_id(tokens: npt.NDArray[np.int32], tokenizer_hash: str) -> str:
    """sha256 of the token ids (little-endian int32) with the tokenizer's hash."""
    digest = hashlib.sha256(tokenizer_hash.encode())
    digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class MadeDocuments:
    """Documents of some texts, placed each by itself, and what of the texts was left out."""

    documents: tuple[Document, ...]
    skipped: Skipped


@dataclass(frozen=True)
class DocumentMaker:
    """Makes documents of texts: reads, tokenises and signs them. Plain values, so that it can be sent."""

    tokenizer: Any
    tokenizer_hash: str
    config: CorpusConfig

    def __call__(self, texts: Sequence[SourceText]) -> MadeDocuments:
        """Raises InputError for a text that cannot be read, where the corpus is strict."""
        skipped = Skipped(self.config.strict)
        places = (document for text in texts for document in documents_at(text, skipped))
        made = (self._make(text, skipped) for text in places)
        return MadeDocuments(tuple(document for document in made if document), skipped)

    def _make(self, text: SourceText, skipped: Skipped) -> Document | None:
        try:
            read = text.document() if isinstance(text, RowOfFile) else text
            whole = self._tokens(read, max(self.config.max_tokens, ORIGIN_TOKENS))
            tokens = whole[: self.config.max_tokens].copy()
            origin_tokens = self._origin_tokens(read, whole)
        except UnreadableTextError as error:  # it could be read a moment ago
            skipped.add_unreadable(str(error), text.source)
            return None
        if len(tokens) < self.config.min_tokens:
            skipped.add(f"shorter than corpus.min_tokens={self.config.min_tokens}", read.source)
            return None
        identity = document_id(tokens, self.tokenizer_hash)
        placement = placed_alone(identity, tokens, self.config)
        origin_id, origin = document_id(origin_tokens, self.tokenizer_hash), None
        if origin_id != identity:
            origin = Origin(origin_id, placed_alone(origin_id, origin_tokens, self.config))
            placement = replace(placement, split_group=origin_id, split=origin.intended.split)
        return Document(
            identity, read.source, tokens, self.tokenizer_hash, placement, metadata_of(read), origin
        )

    def _origin_tokens(self, text: SourceText, whole: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The first tokens of the carrier; of the text itself where there is none."""
        if isinstance(text, TextInMemory) and text.carrier is not None:
            return self._tokens(text.carrier, ORIGIN_TOKENS)
        return whole[:ORIGIN_TOKENS]

    def _tokens(self, text: SourceText, most: int) -> npt.NDArray[np.int32]:
        if isinstance(text, TokenRow):
            return text.tokens[:most]
        if isinstance(text, ChatRow):
            try:
                written = self.tokenizer.apply_chat_template(text.messages, tokenize=False)
            except (ValueError, TypeError, KeyError, TemplateError) as error:
                raise UnreadableTextError(
                    f"a chat that the tokenizer's template refuses ({one_line(error)})"
                ) from None
            text = TextInMemory(text.source, written)
        return encode_pieces(self.tokenizer, text.pieces(), most)


def in_seeded_order(texts: Iterable[SourceText], seed: int) -> list[SourceText]:
    """The places of all texts, not their contents, in the order in which they are taken."""
    ordered = list(texts)
    random.Random(f"corpus {seed}").shuffle(ordered)
    return ordered


def read_documents(
    texts: Iterable[SourceText],
    tokenizer: Any,
    tokenizer_hash: str,
    config: CorpusConfig,
    assigner: SplitAssigner,
    skipped: Skipped,
    needs: Sequence[str] = SPLITS,
) -> Iterator[Document]:
    """Tokenised documents in seeded order, in the splits of `assigner` and within the limit
    (`DocumentChoice`).

    Raises InputError when nothing is left, or when one of the splits that the caller `needs` stays empty.
    """
    maker = DocumentMaker(tokenizer, tokenizer_hash, config)
    choice = DocumentChoice(config, assigner, skipped, needs)
    for text in in_seeded_order(texts, config.seed):
        if choice.is_complete:
            break
        made = maker([text])
        skipped.take_in(made.skipped)
        for document in made.documents:
            if chosen := choice.take(document):
                yield chosen
    choice.refuse_empty()


class DocumentChoice:
    """Which documents are taken: each once, in its split, at most `config.limit` with every split there.

    With a limit each split has a quota (at least one), so a small run still has something to validate and
    test on; documents beyond their split's quota are skipped.
    """

    def __init__(
        self,
        config: CorpusConfig,
        assigner: SplitAssigner,
        skipped: Skipped,
        needs: Sequence[str] = SPLITS,
    ) -> None:
        self._assigner, self._skipped, self._needs = assigner, skipped, needs
        self._quotas = _quotas(config)
        self._taken = dict.fromkeys(SPLITS, 0)
        self._seen: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every quota is used up."""
        return bool(self._quotas) and all(self._taken[split] >= self._quotas[split] for split in SPLITS)

    def take(self, document: Document) -> Document | None:
        """The document as it is placed; None when it is left out."""
        if document.document_id in self._seen:
            self._skipped.add("repeated", document.source)
            return None
        self._seen.add(document.document_id)
        placement = self._assigner.place_as(document.document_id, document.placement, document.origin)
        if placement is None:
            self._skipped.add(BETWEEN_SPLITS, document.source)
            return None
        if self._quotas and self._taken[placement.split] >= self._quotas[placement.split]:
            return None
        self._taken[placement.split] += 1
        return replace(document, placement=placement)

    def refuse_empty(self) -> None:
        """Raises InputError when no document was taken, or a split that is needed stays empty."""
        _refuse_empty(self._taken, self._skipped, self._needs)


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
            f"add documents, or {_other_fractions(empty)}" + (f" ({skipped})" if skipped.counts else "")
        )


def _other_fractions(empty: Sequence[str]) -> str:
    if "train" in empty:
        return "lower corpus.validation_fraction and corpus.test_fraction"
    return "raise " + " and ".join(f"corpus.{s}_fraction (--set corpus.{s}_fraction=0.3)" for s in empty)
