"""Small inputs for the tests of planning: documents, configurations and provenances, K = 4."""

from collections.abc import Sequence

import numpy as np

from mctrace.collect.config import CollectConfig
from mctrace.collect.corpus.documents import Document, document_id
from mctrace.collect.corpus.split_assigner import Placement
from mctrace.collect.planning.document_plan import MapMaker, plan_document
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance

TREE = TreeShape(block_size=4, max_level=2)
PROVENANCE = Provenance("model", "tokenizer", "gists", "float32", TREE.block_size, TREE.max_level)


def random_tokens(num_tokens: int, seed: int = 0, vocabulary: int = 97) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, num_tokens).astype(np.int32)


def make_document(num_tokens: int = 400, seed: int = 0, tokenizer_hash: str = "tokenizer") -> Document:
    tokens = random_tokens(num_tokens, seed)
    identity = document_id(tokens, tokenizer_hash)
    placement = Placement(identity, "train", np.arange(128, dtype=np.uint32))
    return Document(identity, f"folder/{seed}.txt", tokens, tokenizer_hash, placement)


def small_config(**changes: object) -> CollectConfig:
    """Contexts of at most 128 tokens, with both gist levels and both actions."""
    settings: dict[str, object] = {
        "horizon": 16,
        "cursors_per_trajectory": 3,
        "cursor_stride": 4,
        "window": 128,
        "lod0_window": 64,
        "recency_level_tokens": (16, 48),
        "train_wc_length": 48,
        "protected_tail": 8,
    }
    return CollectConfig(**{**settings, **changes})  # type: ignore[arg-type]


def make_plan(
    documents: Sequence[Document],
    config: CollectConfig,
    provenance: Provenance,
    lensnet: MapMaker | None = None,
) -> RunPlan:
    """The trajectories of every document that is long enough for one."""
    planned = {d.document_id: tuple(plan_document(d, config, provenance, lensnet)) for d in documents}
    return RunPlan(
        {d.document_id: d for d in documents if planned[d.document_id]},
        tuple(unit for units in planned.values() for unit in units),
        provenance,
        lensnet.identity if lensnet else None,
    )
