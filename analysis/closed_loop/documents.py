"""Selection of the held-out documents of a closed loop, and of the place in each where it runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import Document, read_documents
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.row_files import Columns
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.planning.document_plan import window_start
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.store import find_store
from mctrace.errors import InputError, ModelError


@dataclass(frozen=True)
class Loop:
    """Refocuses of one document: the token at which every context begins, and their cursors."""

    start: int
    first_cursor: int
    num_refocuses: int
    block_size: int

    @property
    def cursors(self) -> range:
        end = self.first_cursor + self.num_refocuses * self.block_size
        return range(self.first_cursor, end, self.block_size)


def place_loop(num_tokens: int, config: ClosedLoopConfig, tree: TreeShape) -> Loop | None:
    """The last refocuses of a document that leave a whole horizon.

    None for a document so short that everything would fit the budget.
    """
    block = tree.block_size
    latest = (num_tokens - config.horizon) // block * block
    first = latest - (config.refocuses - 1) * block
    start = window_start(first, config.window, tree)
    return Loop(start, first, config.refocuses, block) if first - start > config.w_max else None


def held_out_documents(
    source: ModelSource,
    corpus: CorpusConfig,
    tree: TreeShape,
    config: ClosedLoopConfig,
    split: str,
    store_uri: str,
) -> list[tuple[Document, Loop]]:
    """Documents of the split with the place of their loop, equally many from every corpus path.

    Documents that the store holds keep the split they have there. The first `config.skip` documents, spread
    over the paths in the same way, are left out.

    Raises InputError when no document is long enough, ModelError when the base model has too few positions.
    """
    skipped = Skipped(corpus.strict)
    assigner = SplitAssigner(corpus, known_placements(find_store(store_uri)))
    tokenizer = source.load_tokenizer()
    found: list[tuple[Document, Loop]] = []
    num_left_out, num_paths = 0, len(corpus.paths)
    for number, path in enumerate(corpus.paths):
        # Paths with too few documents leave their share to those after them.
        to_leave_out = config.skip * (number + 1) // num_paths - num_left_out
        wanted = config.documents * (number + 1) // num_paths - len(found)
        documents = read_documents(
            read_corpus([path], skipped, Columns.of(corpus)), tokenizer, source.tokenizer_hash,
            replace(corpus, limit=None), assigner, skipped, needs=(split,),
        )  # fmt: skip
        of_split = (document for document in documents if document.placement.split == split)
        usable = islice(_long_enough(of_split, config, tree, skipped), to_leave_out + wanted)
        num_left_out += sum(1 for _ in islice(usable, to_leave_out))
        found += usable
    if not found:
        raise InputError(
            f"no document of the {split} split is long enough for a closed loop ({skipped}; {num_left_out} "
            "left out by closed_loop.skip): give longer documents or a smaller closed_loop.w_max"
        )
    _check_positions(source, found, config)
    return found


def _long_enough(
    documents: Iterator[Document], config: ClosedLoopConfig, tree: TreeShape, skipped: Skipped
) -> Iterator[tuple[Document, Loop]]:
    for document in documents:
        loop = place_loop(document.num_tokens, config, tree)
        if loop is None:
            skipped.add("too short for a closed loop", document.source)
        else:
            yield document, loop


def _check_positions(
    source: ModelSource, documents: list[tuple[Document, Loop]], config: ClosedLoopConfig
) -> None:
    widest = max(loop.cursors[-1] + config.horizon - loop.start for _, loop in documents)
    if widest > source.max_positions:
        raise ModelError(
            f"a closed loop would span {widest} positions, the base model {source.name!r} has "
            f"{source.max_positions}: use a smaller closed_loop.window"
        )
