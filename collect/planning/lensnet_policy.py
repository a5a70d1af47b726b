"""Trajectory policy `lensnet`: LOD maps that a LensNet's refocuses arrive at, and the scores behind them.

The one place that turns a checkpoint into scores outside of training. Closed-loop evaluation asks it at every
refocus; the trajectory policy `lensnet` runs some refocuses and measures labels on the resulting map, with
noise on the scores, so that the next round of training covers maps that the last one's LensNet would show.

Shapes: d embedding width of the base model.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.corpus.documents import Document
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.context.allocator import Allocation, AllocatorConfig, RecentEdits, allocate
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.lod_map import LODMap
from mctrace.context.refocus import refocus_steps
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings
from mctrace.datasets.store.parts import part_digest
from mctrace.datasets.store.provenance import Provenance
from mctrace.gists.network.gistnet import GistNet, build_tree
from mctrace.seeding import generator_for
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_hash
from mctrace.train.networks.config import Price
from mctrace.train.serving.compatibility import check_compatible
from mctrace.train.serving.scorer import Scorer


@dataclass(frozen=True)
class LensNetScorer:
    """A checkpoint that scores the actions of working contexts, in score units.

    `balances`: scale the heavier of expansion and collapse mass down to the lighter
    (docs/specification/inference.md#rebalancing). `price`: whose price its values are less by.
    """

    scorer: Scorer
    checkpoint_hash: str
    balances: bool = False
    price: Price = "searched"

    def candidates(
        self, lod_map: LODMap, document: DocumentTree, *, budget: int, protected_tail: int
    ) -> Candidates:
        """Legal actions, with signed scores, of a working context that is to take `budget` positions."""
        embeddings = TreeEmbeddings([nodes_Md.float().cpu() for nodes_Md in document.embeddings])
        return self.scorer.candidates(
            Context(lod_map, embeddings, tokens_T=document.tokens_T.cpu().numpy()),
            rebalanced=self.balances, budget=budget, protected_tail=protected_tail,
            price=self.price,
        )  # fmt: skip


def load_scorer(
    folder: Path, provenance: Provenance, *, balances: bool = False, price: Price = "searched"
) -> LensNetScorer:
    """The checkpoint in `folder`; `balances` means nothing to one that scores values of detail, and `price`
    nothing to one without a price head.

    Raises InputError when it learned from another base model, GistNet or tree than those it is to score.
    """
    found = Scorer.from_pretrained(folder)
    check_compatible(found.info, folder, [provenance], "model.name, gists.source and tree say")
    return LensNetScorer(found, checkpoint_hash(folder), balances and found.info.signed, price)


@dataclass(frozen=True)
class OnPolicyConfig:
    """Refocuses before labels are measured: how many, within which budget, with how much noise."""

    budget: int
    """positions of its working context after each refocus"""
    protected_tail: int
    num_refocuses: int
    allocator: AllocatorConfig


class OnPolicyMaps:
    """Makes the maps of the trajectory policy `lensnet`; holds the model that embeds, for the planner."""

    def __init__(
        self, scorer: LensNetScorer, model: FrozenCausalLM, gistnet: GistNet, config: OnPolicyConfig
    ) -> None:
        self._scorer, self._model, self._gistnet, self._config = scorer, model, gistnet, config
        self._tree: tuple[str, DocumentTree] | None = None

    @property
    def identity(self) -> str:
        """Hash of the checkpoint and the refocus settings: of all that determines the maps besides the
        document."""
        found = self._scorer
        scorer: dict[str, object] = {"checkpoint": found.checkpoint_hash, "balances": found.balances}
        if found.scorer.network.price_head is not None:
            scorer["price"] = found.price
        return part_digest({**scorer, **asdict(self._config)})

    def head_map(
        self, document: Document, tree: TreeShape, start: int, cursor: int, *key: str | int
    ) -> LODMap:
        """The map at `cursor` after some refocuses from a recency map; noise, if any, is seeded by `key`."""
        first = max(start + tree.block_size, cursor - self._config.num_refocuses * tree.block_size)
        config, embedded = self._config, self._document_tree(document, tree)

        def refocus(lod_map: LODMap, recent: RecentEdits) -> Allocation:
            candidates = self._scorer.candidates(
                lod_map, embedded, budget=config.budget, protected_tail=config.protected_tail
            )
            generator = generator_for("allocator", recent.step, *key)
            return allocate(lod_map, candidates, config.budget, config.allocator, recent, generator)

        lod_map = recency_map_within(tree, start, first, config.budget, config.protected_tail)
        for _, allocation in refocus_steps(lod_map, cursor, refocus):
            lod_map = allocation.lod_map
        return lod_map

    def _document_tree(self, document: Document, tree: TreeShape) -> DocumentTree:
        if self._tree is None or self._tree[0] != document.document_id:
            self._tree = (document.document_id, embed_document(self._model, self._gistnet, document, tree))
        return self._tree[1]


def embed_document(
    model: FrozenCausalLM, gistnet: GistNet, document: Document, tree: TreeShape
) -> DocumentTree:
    """Document tree: the tokens and the embeddings of every level."""
    tokens_T = torch.from_numpy(document.tokens.astype(np.int64))
    return DocumentTree(tokens_T, build_tree(gistnet, model.embed(tokens_T), tree))
