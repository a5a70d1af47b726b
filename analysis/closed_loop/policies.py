"""Policies of closed-loop evaluation: each decides at every refocus what the working context shows.

`lod0` shows the newest tokens that fit and nothing else; `full` shows everything as tokens, over any budget.
The others leave edits to the focus allocator and differ in how they score:

    recency            nothing is scored: what the budget demands is collapsed, oldest first
    random             standard normal noise per action
    attention          the base model's attention to a span from the last K tokens, its logarithm standardised
    similarity         cosine of a span's gist with those of what was read last: retrieval, nothing learned
    words              rare words that a span shares with what was read last: the same, without any model
    bm25, rare_words   newest tokens and the few older blocks that match them best: nothing learned either
    influence          the same by the gradient of the loss on what was read last (`influence.py`)
    told               facts that are asked for, shown until answered: perfect retrieval (`oracles.py`)
    lensnet            a checkpoint's scores
    hindsight          exact effects on the very tokens that come next, less their shadow price: a ceiling
    literal_hindsight  the same effects under the target `literal`: what its perfect learner would do
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline
from mctrace.collect.planning.lensnet_policy import LensNetScorer
from mctrace.collect.planning.map_policies import truncation_map
from mctrace.context.allocator import Allocation, AllocatorConfig, RecentEdits, allocate
from mctrace.context.allocator_candidates import Candidates, FloatArray, candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import subtract_price
from mctrace.context.shared_tokens import overlaps
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import ABSENT
from mctrace.seeding import generator_for

_NUM_TAIL = 5
"""complete blocks before the cursor that are retrieval's query, as many as a LensNet sees of level 1"""


@dataclass(frozen=True)
class Observation:
    """Input of a policy at a refocus: the context with all tokens so far, and its limits."""

    document_id: str
    document: DocumentTree
    reader: ContextReader
    lod_map: LODMap
    budget: int
    """positions after the refocus"""
    protected_tail: int
    recent: RecentEdits
    batching: Batching
    seed: int

    def candidates(self, score_N: FloatArray | None = None) -> Candidates:
        return candidates_of(self.lod_map, self.protected_tail, score_N)


IntTokens = npt.NDArray[np.int64]


class Policy(Protocol):
    """Chooses the edits of one refocus."""

    def refocus(self, observation: Observation) -> Allocation: ...


@dataclass(frozen=True)
class TokenWindow:
    """Shows tokens only: the newest `budget`, or all of them."""

    everything: bool = False

    def refocus(self, observation: Observation) -> Allocation:
        tree, lod_map = observation.lod_map.tree, observation.lod_map
        start = lod_map.start
        if not self.everything:
            oldest = lod_map.cursor - observation.budget
            start = max(start, -(-oldest // tree.block_size) * tree.block_size)
        tokens = LODMap.of_tokens(tree, start, lod_map.cursor)
        return Allocation(tokens, (), 0, observation.recent)


@dataclass(frozen=True)
class ScoredPolicy:
    """Scores actions and leaves the choice of edits to the focus allocator."""

    scores: Callable[[Observation], Candidates]
    allocator: AllocatorConfig

    def refocus(self, observation: Observation) -> Allocation:
        candidates = self.scores(observation)
        generator = generator_for(
            "closed loop", observation.document_id, observation.lod_map.cursor, observation.seed
        )
        return allocate(
            observation.lod_map, candidates, observation.budget, self.allocator, observation.recent, generator
        )


class Relevance(Protocol):
    """How much each absent block of a window is wanted again [M], oldest block first; 0: not at all."""

    def __call__(self, observation: Observation, window: LODMap, /) -> FloatArray: ...


@dataclass(frozen=True)
class TokenMatch:
    """Relevance by token ids alone.

    `match` takes the blocks to choose from [M, K] and the tokens read last [Q].
    """

    match: Callable[[IntTokens, IntTokens], FloatArray]
    num_query_tokens: int = 64

    def __call__(self, observation: Observation, window: LODMap) -> FloatArray:
        tokens_T = observation.document.tokens_T.cpu().numpy()
        block, num_absent = window.tree.block_size, int((window.levels == ABSENT).sum())
        older_MK = tokens_T[window.start : window.start + num_absent * block].reshape(num_absent, block)
        return self.match(older_MK, tokens_T[window.cursor - self.num_query_tokens : window.cursor])


@dataclass(frozen=True)
class RetrievalWindow:
    """Truncation that gives its oldest blocks up for those of the older text that `relevance` ranks highest.

    The newest tokens and `num_blocks` retrieved blocks, chosen anew at every refocus. Needs a tree whose
    blocks may be absent.
    """

    relevance: Relevance
    num_blocks: int

    def refocus(self, observation: Observation) -> Allocation:
        lod_map, block = observation.lod_map, observation.lod_map.tree.block_size
        newest = observation.budget - self.num_blocks * block
        first_shown = -(-(lod_map.cursor - newest) // block) * block
        window = truncation_map(lod_map.tree, lod_map.start, lod_map.cursor, first_shown)
        relevance_M = self.relevance(observation, window)
        best = np.argsort(-relevance_M, kind="stable")[: self.num_blocks]
        chosen = best[relevance_M[best] > 0]
        # What is not retrieved is the newest text instead.
        spare = min(self.num_blocks - len(chosen), len(relevance_M))
        levels = window.levels.copy()
        levels[chosen] = 0
        absent = np.flatnonzero(levels == ABSENT)
        levels[absent[len(absent) - min(spare, len(absent)) :]] = 0
        shown = LODMap(lod_map.tree, lod_map.start, lod_map.cursor, levels)
        return Allocation(shown, (), 0, observation.recent)


def recency_scores(observation: Observation) -> Candidates:
    """Equal scores, so that the allocator does what the budget demands, oldest first."""
    return observation.candidates()


def random_scores(observation: Observation) -> Candidates:
    """Standard normal noise, seeded by document and cursor."""
    candidates = observation.candidates()
    generator = generator_for(
        "random policy", observation.document_id, observation.lod_map.cursor, observation.seed
    )
    return replace(candidates, score_A=generator.normal(size=len(candidates)))


def attention_scores(observation: Observation) -> Candidates:
    """Log of the attention mass that the last K tokens pay a span, standardised.

    Mean 0 and variance 1 among expands and among collapses: tokens draw so much more attention than their
    gist that no block of them would ever be wanted less than a gist. An absent block draws none: what is
    missing cannot be found by attention.
    """
    lod_map = observation.lod_map
    block = lod_map.tree.block_size
    before = LODMap(lod_map.tree, lod_map.start, lod_map.cursor - block, lod_map.levels[:-1])
    past = Trajectory(before, (before.cursor,), block)
    mass_N = measure_baseline(
        observation.reader.model, observation.document, past, attention_mass=True
    ).attention_mass_N
    assert mass_N is not None
    # The last token has not run; it is protected, so its mass is never used.
    is_shown_N = lod_map.nodes.level_N != ABSENT
    mass_of_node_N = np.zeros(len(is_shown_N))
    mass_of_node_N[is_shown_N] = np.append(mass_N.double().numpy(), 0.0)
    candidates = observation.candidates(mass_of_node_N)
    mass_A = candidates.score_A * candidates.actions.num_replaced_A(lod_map.tree)
    score_A = np.log(np.maximum(mass_A, 1e-12))
    for alike_A in (candidates.is_expand_A, ~candidates.is_expand_A):
        if alike_A.any():
            spread = max(float(score_A[alike_A].std()), 1e-12)
            score_A[alike_A] = (score_A[alike_A] - score_A[alike_A].mean()) / spread
    return replace(candidates, score_A=score_A)


def similarity_scores(observation: Observation) -> Candidates:
    """Largest cosine of a node's gist with one of the last complete blocks', standardised over candidates.

    The mean of each level is subtracted first: without that all gists of a document are much alike.
    """
    lod_map = observation.lod_map
    tree, candidates = lod_map.tree, observation.candidates()
    last_block = lod_map.cursor // tree.block_size
    similarity_A = np.zeros(len(candidates))
    for level in range(1, tree.max_level + 1):
        of_level_A = candidates.actions.level_A == level
        if of_level_A.any():
            nodes_Md = _directions(
                observation.document.embeddings[level], lod_map.cursor // tree.block_size**level
            )
            tail_Rd = _directions(observation.document.embeddings[1], last_block)[-_NUM_TAIL:]
            cosine_A = nodes_Md[torch.from_numpy(candidates.actions.index_A[of_level_A])] @ tail_Rd.T
            similarity_A[of_level_A] = cosine_A.amax(dim=1).double().numpy()
    return retrieved_scores(observation, candidates, similarity_A)


def word_scores(observation: Observation) -> Candidates:
    """Rare words shared by a node's span and the last complete blocks, standardised over candidates."""
    tokens_T, candidates = observation.document.tokens_T.cpu().numpy(), observation.candidates()
    lod_map, block = observation.lod_map, observation.lod_map.tree.block_size
    cursor = lod_map.cursor
    spans = [lod_map.tree.span(candidates.actions.action(i).node) for i in range(len(candidates))]
    read = range(cursor - _NUM_TAIL * block, cursor)
    shared_A = overlaps(tokens_T, range(lod_map.start, cursor), read, spans, block)
    return retrieved_scores(observation, candidates, shared_A)


def retrieved_scores(
    observation: Observation, candidates: Candidates, similarity_A: FloatArray
) -> Candidates:
    """Similarity as a value of detail, in its own standard deviations, less the price.

    The least similar node is worth 0, so that what is shown as tokens gives way only to what is more similar.
    """
    if not len(candidates):
        return candidates
    score_A = (similarity_A - similarity_A.min()) / max(float(similarity_A.std()), 1e-12)
    room = observation.budget - observation.lod_map.num_entries
    return subtract_price(replace(candidates, score_A=score_A), room)


def _directions(gists_Md: Tensor, num_complete: int) -> Tensor:
    """The complete nodes' gists less their mean, at unit length."""
    complete_Md = gists_Md[:num_complete].float().cpu()
    return torch.nn.functional.normalize(complete_Md - complete_Md.mean(dim=0), dim=1)


def lensnet_scores(scorer: LensNetScorer) -> Callable[[Observation], Candidates]:
    """The scores of a checkpoint."""

    def scores(observation: Observation) -> Candidates:
        return scorer.candidates(
            observation.lod_map,
            observation.document,
            budget=observation.budget,
            protected_tail=observation.protected_tail,
        )

    return scores
