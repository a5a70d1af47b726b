"""The proof's policies by name, at one budget.

Retrieval without a model shows the newest text and some blocks of the older one; how many, development
documents decide (`bm25-2`, `bm25-4`, `bm25-8`). Similarity, attention and networks score every block and pay
its price. `told` knows which planted facts are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mctrace.analysis.closed_loop.influence import Influence
from mctrace.analysis.closed_loop.oracles import ORACLE_ALLOCATOR, RecallOracle
from mctrace.analysis.closed_loop.policies import (
    Policy,
    Relevance,
    RetrievalWindow,
    ScoredPolicy,
    TokenMatch,
    TokenWindow,
    lensnet_scores,
    random_scores,
    similarity_scores,
)
from mctrace.analysis.closed_loop.window_attention import window_attention_scores
from mctrace.collect.planning.lensnet_policy import load_scorer
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.shared_tokens import bm25, rare_words
from mctrace.datasets.store.provenance import Provenance
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_hash

TRUNCATION = "truncation"
BLOCKS = (2, 4, 8)
"""that retrieval may show"""
_RELEVANCE: dict[str, Relevance] = {
    "bm25": TokenMatch(bm25), "rare_words": TokenMatch(rare_words), "influence": Influence(),
}  # fmt: skip
RETRIEVAL = (*(f"{name}-{blocks}" for name in _RELEVANCE for blocks in BLOCKS), "similarity", "attention")
"""policies of which the best on development documents is the second opponent"""
CEILINGS = ("everything", "told")
_TOLD_EDITS = 16
"""most edits per refocus of `told`, so that nothing but the budget limits it"""


@dataclass(frozen=True)
class PolicyMaker:
    """Makes policies; checkpoints are named after their run's folder."""

    provenance: Provenance
    allocator: AllocatorConfig
    protected_tail: int
    tokenizer: PreTrainedTokenizerBase
    checkpoints: Sequence[Path]

    def identity(self, name: str) -> str:
        """What a policy's rows depend on: its name, or the content of its checkpoint."""
        folder = self._checkpoint(name)
        return checkpoint_hash(folder) if folder else name

    def make(self, name: str, budget: int, block_size: int) -> Policy:
        """The policy called `name` that leaves `budget` positions after a refocus."""
        if folder := self._checkpoint(name):
            return ScoredPolicy(lensnet_scores(load_scorer(folder, self.provenance)), self.allocator)
        relevance, _, blocks = name.rpartition("-")
        if relevance in _RELEVANCE:
            most = max(1, (budget - self.protected_tail) // block_size)
            return RetrievalWindow(_RELEVANCE[relevance], min(int(blocks), most))
        others: dict[str, Policy] = {
            TRUNCATION: TokenWindow(),
            "everything": TokenWindow(everything=True),
            "similarity": ScoredPolicy(similarity_scores, self.allocator),
            "attention": ScoredPolicy(window_attention_scores, self.allocator),
            "random": ScoredPolicy(random_scores, self.allocator),
            "told": ScoredPolicy(
                RecallOracle(self.tokenizer), replace(ORACLE_ALLOCATOR, num_edits=_TOLD_EDITS)
            ),
        }
        return others[name]

    def _checkpoint(self, name: str) -> Path | None:
        return next((folder for folder in self.checkpoints if folder.parent.name == name), None)


def applies(name: str, family: str) -> bool:
    """Whether a policy says anything about documents of a family: only recall documents can be told."""
    return name != "told" or family == "recall"
