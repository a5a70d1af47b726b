"""The proof's documents: three families, a development and a test set, each made again alike by anybody.

Recall and ordinary documents come from other people's texts (`texts.py`), RULER's from lm-eval's generators.
`seal.json` holds hashes of the test documents from before anything was measured; a final run that makes
others is refused.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from experiments.proof.question_documents import SEEN, QuestionDocument
from experiments.proof.ruler import TASKS, ruler_documents
from experiments.proof.texts import GENRES
from mctrace.analysis.closed_loop.answers import Question
from mctrace.analysis.closed_loop.oracles import asked_facts
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import Document, DocumentMaker, in_seeded_order
from mctrace.collect.corpus.lazy_texts import SourceText
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.datasets.store.store import find_store
from mctrace.errors import InputError

SEAL = Path(__file__).with_name("seal.json")
SEEDS = {"development": 1, "test": 2}
UNSEEN = "unseen wording"
ORDINARY_TOKENS = 4_608
"""a window of 4,096 before the first refocus, eight refocuses and a horizon"""
_MOST_TOKENS = 8_192
_CORPUS = CorpusConfig(min_tokens=1, max_tokens=_MOST_TOKENS)


@dataclass(frozen=True)
class Counts:
    """Documents of a set."""

    recall: int
    ruler: int
    """of each task, at 4,096 tokens"""
    ordinary: int
    long_ruler: int = 0
    """of each task, at 8,192 tokens"""
    seen: int = 0
    """recall documents of the training wording, on the carriers of the others"""


@dataclass(frozen=True)
class DocumentSet:
    """The documents that are measured, and those of a corpus that they were made from."""

    documents: tuple[QuestionDocument, ...]
    placed: tuple[Document, ...]


def make_set(split: str, counts: Counts, texts: Path, source: ModelSource, block_size: int) -> DocumentSet:
    """The `development` or `test` set in tokens of the base model.

    Raises InputError where the texts have too few documents, or lm-eval is not installed.
    """
    maker = DocumentMaker(source.load_tokenizer(), source.tokenizer_hash, _CORPUS)
    found = [*_recall(maker, texts / split, split, counts), *_ordinary(maker, texts / split, split, counts)]
    documents = [document for document, _ in found]
    for num_tokens, count in ((4_096, counts.ruler), (_MOST_TOKENS, counts.long_ruler)):
        for task in TASKS if count else ():
            documents += ruler_documents(maker.tokenizer, task, num_tokens, count, SEEDS[split], block_size)
    return DocumentSet(tuple(documents), tuple(placed for _, placed in found))


def first_of_groups(documents: Iterable[QuestionDocument], number: int) -> list[QuestionDocument]:
    """The first documents of each group, and of each length where a group has several."""
    seen: Counter[tuple[str, str, bool]] = Counter()
    found = []
    for document in documents:
        group = (document.family, document.group, document.is_long)
        seen[group] += 1
        if seen[group] <= number:
            found.append(document)
    return found


def check_sides(placed: Sequence[Document], store_uri: str) -> None:
    """Raises InputError when a document's carrier is a near-duplicate of what the store has trained on."""
    known = known_placements(find_store(store_uri))
    assigner = SplitAssigner(_CORPUS, known)
    for document in placed:
        found = assigner.place_as(document.document_id, document.placement, document.origin)
        if found is None or (found.split_group in known and found.split != "test"):
            raise InputError(
                f"{document.source} is a near-duplicate of a document that {store_uri} has in its "
                f"{found.split if found else 'several'} split: the proof's texts must not be trained on"
            )


def sealed(documents: Iterable[QuestionDocument]) -> dict[str, Any]:
    """Family and group -> the number of documents, and one hash over all of them in order."""
    groups: dict[str, list[QuestionDocument]] = defaultdict(list)
    for document in documents:
        groups[f"{document.family}: {document.group}"].append(document)
    return {
        name: {
            "documents": len(found),
            "sha256": hashlib.sha256("".join(one.document_id for one in found).encode()).hexdigest(),
        }
        for name, found in sorted(groups.items())
    }


def check_seal(documents: Iterable[QuestionDocument], source: ModelSource) -> None:
    """Raises InputError when the test documents are not those that were sealed for this tokenizer."""
    seal: Mapping[str, Any] = json.loads(SEAL.read_text(encoding="utf-8"))
    if seal["tokenizer_hash"] != source.tokenizer_hash:
        print(f"{SEAL.name} is of another tokenizer: these test documents are not sealed", flush=True)
        return
    made = sealed(documents)
    changed = [name for name in seal["groups"] if made.get(name) != seal["groups"][name]]
    if changed or made.keys() != seal["groups"].keys():
        raise InputError(
            f"the test documents are not those of {SEAL.name} ({', '.join(changed) or 'other groups'}): "
            "a package, lm-eval or the code that makes them is another version"
        )


def _recall(
    maker: DocumentMaker, texts: Path, split: str, counts: Counts
) -> Iterator[tuple[QuestionDocument, Document]]:
    """Documents of different carriers in the split's wording, then the same carriers in the training one."""
    made = _one_a_carrier(_seeded(f"recall-{split}:{texts}"))
    chosen = _taken((_asked(maker, text, UNSEEN) for text in made), counts.recall, f"recall-{split}")
    yield from chosen
    again = (
        {text.source.removeprefix("recall:"): text for text in _seeded(f"recall:{texts}")}
        if counts.seen
        else {}
    )
    for document, _ in chosen[: counts.seen]:
        found = _asked(maker, again[document.name.removeprefix(f"recall-{split}:")], SEEN)
        if found:
            yield found


def _ordinary(
    maker: DocumentMaker, texts: Path, split: str, counts: Counts
) -> Iterator[tuple[QuestionDocument, Document]]:
    """As many of each work of a genre, half of them sources and half prose."""
    for genre in GENRES:
        works = sorted(path for path in (texts / genre).iterdir() if path.is_dir())
        for number, work in enumerate(works):
            count = (counts.ordinary // len(GENRES) + number) // len(works)
            documents = (_plain(maker, text, genre) for text in _seeded(str(work)))
            yield from _taken(documents, count, f"{genre} of {work.name}")


def _taken(
    documents: Iterable[tuple[QuestionDocument, Document] | None], count: int, what: str
) -> list[tuple[QuestionDocument, Document]]:
    found = list(islice((document for document in documents if document), count))
    if len(found) < count:
        raise InputError(f"only {len(found)} of {count} documents are long enough: {what}")
    return found


def _seeded(path: str) -> list[SourceText]:
    return in_seeded_order(read_corpus([path], Skipped()), seed=0)


def _one_a_carrier(texts: Iterable[SourceText]) -> Iterator[SourceText]:
    seen: set[str] = set()
    for text in texts:
        carrier = text.source.rpartition("#")[0]
        if carrier not in seen:
            seen.add(carrier)
            yield text


def _asked(maker: DocumentMaker, text: SourceText, group: str) -> tuple[QuestionDocument, Document] | None:
    """None where tokens do not give the text back, or do not all fit the base model's positions."""
    (document,) = maker([text]).documents
    facts = asked_facts(torch.from_numpy(document.tokens).long(), maker.tokenizer)
    if not facts or document.num_tokens >= _MOST_TOKENS:
        return None
    questions = tuple(Question(f.answered.start, f.answered.stop, (f.value,)) for f in facts)
    return QuestionDocument(text.source, "recall", group, document.tokens, questions), document


def _plain(maker: DocumentMaker, text: SourceText, genre: str) -> tuple[QuestionDocument, Document] | None:
    (document,) = maker([text]).documents
    if document.num_tokens < ORDINARY_TOKENS:
        return None
    return QuestionDocument(text.source, "ordinary", genre, document.tokens[:ORDINARY_TOKENS]), document
