"""The configured corpus as tokenised documents, split as a store already splits them."""

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import Document, read_documents
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.row_files import Columns
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.datasets.store.store import Store
from mctrace.progress import Progress


def read_configured_corpus(
    source: ModelSource, corpus: CorpusConfig, store: Store | None, skipped: Skipped, progress: Progress
) -> list[Document]:
    """Documents of `corpus` in tokens of the base model; those that `store` holds keep their split.

    `skipped` counts what was left out. Raises InputError when no document is usable.
    """
    assigner = SplitAssigner(corpus, known_placements(store))
    tokenizer = source.load_tokenizer()
    texts = read_corpus(corpus.paths, skipped, Columns.of(corpus))
    documents: list[Document] = []
    progress.start("reading documents", corpus.limit, "documents")
    try:
        for document in read_documents(texts, tokenizer, source.tokenizer_hash, corpus, assigner, skipped):
            documents.append(document)
            progress.advance(1)
    finally:
        progress.stop()
    return documents
