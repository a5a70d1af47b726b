"""Who decides what a working context shows: the policies that closed-loop evaluation compares.

`lod0` shows the newest tokens that fit and nothing else; `full` shows everything as tokens, over any budget.
The others leave edits to the focus allocator and differ in how they score:

    recency            nothing is scored: what the budget demands is collapsed, oldest first
    random             standard normal noise per action
    attention          the base model's attention to a span from the last K tokens, its logarithm standardised
    similarity         cosine of a span's gist with those of what was read last: retrieval, nothing learned
    words              rare words that a span shares with what was read last: the same, without any model
    told               facts that are asked for, shown until answered: what recall could gain (`told.py`)
    lensnet            a checkpoint's scores
    hindsight          exact effects on the very tokens that come next, less their shadow price: a ceiling
    literal_hindsight  the same effects under the target `literal`: what its perfect learner would do
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mctrace.analysis.closed_loop.reader import Reader
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Baseline, Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.collect.planning.on_policy import LensNetScorer
from mctrace.collect.planning.word_overlap import overlaps
from mctrace.context.actions import Action
from mctrace.context.allocator import Allocation, AllocatorConfig, RecentEdits, allocate
from mctrace.context.allocator_candidates import Candidates, FloatArray, candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import subtract_price
from mctrace.context.trajectory import Trajectory
from mctrace.seeding import generator_for

_NUM_TAIL = 5
"""complete blocks before the cursor that say what is being read, as many as a LensNet sees of level 1"""

ORACLE_ALLOCATOR = AllocatorConfig(
    expand_threshold=1e-9, collapse_threshold=1e-9, cooldown=0, reversal_threshold=1e-9, reversal_steps=0
)
"""For scores that are known rather than guessed: whatever gains is done, and undone when that gains."""


@dataclass(frozen=True)
class View:
    """What a policy sees at a refocus: the context with all tokens so far, and what it may become."""

    document_id: str
    document: DocumentTree
    reader: Reader
    lod_map: LODMap
    budget: int
    """positions after the refocus"""
    protected_tail: int
    recent: RecentEdits
    batching: Batching
    seed: int

    def candidates(self, score_N: FloatArray | None = None) -> Candidates:
        return candidates_of(self.lod_map, self.protected_tail, score_N)


class Policy(Protocol):
    """Decides once every K tokens."""

    def refocus(self, view: View) -> Allocation: ...


@dataclass(frozen=True)
class Window:
    """Tokens only: the newest `budget`, or all of them."""

    everything: bool = False

    def refocus(self, view: View) -> Allocation:
        tree, lod_map = view.lod_map.tree, view.lod_map
        start = lod_map.start
        if not self.everything:
            oldest = lod_map.cursor - view.budget
            start = max(start, -(-oldest // tree.block_size) * tree.block_size)
        tokens = LODMap.of_tokens(tree, start, lod_map.cursor)
        return Allocation(tokens, (), 0, view.recent)


@dataclass(frozen=True)
class Scored:
    """Scores, and leaves edits to the focus allocator."""

    scores: Callable[[View], Candidates]
    allocator: AllocatorConfig

    def refocus(self, view: View) -> Allocation:
        candidates = self.scores(view)
        chance = generator_for("closed loop", view.document_id, view.lod_map.cursor, view.seed)
        return allocate(view.lod_map, candidates, view.budget, self.allocator, view.recent, chance)


def recency_scores(view: View) -> Candidates:
    """All alike, so that the allocator does what the budget demands, oldest first."""
    return view.candidates()


def random_scores(view: View) -> Candidates:
    candidates = view.candidates()
    chance = generator_for("random policy", view.document_id, view.lod_map.cursor, view.seed)
    return replace(candidates, score_A=chance.normal(size=len(candidates)))


def attention_scores(view: View) -> Candidates:
    """Log of the attention mass that the last K tokens pay a span, standardised.

    To mean 0 and variance 1 among expands and among collapses: tokens draw so much more than the gist of as
    many that no block of them would ever be wanted less than a gist.
    """
    lod_map = view.lod_map
    block = lod_map.tree.block_size
    before = LODMap(lod_map.tree, lod_map.start, lod_map.cursor - block, lod_map.levels[:-1])
    past = Trajectory(before, (before.cursor,), block)
    mass_N = measure_baseline(view.reader.model, view.document, past, attention_mass=True).attention_mass_N
    assert mass_N is not None
    # The last token has not run; it is protected, so its own mass is never asked for.
    candidates = view.candidates(np.append(mass_N.double().numpy(), 0.0))
    mass_A = candidates.score_A * np.where(candidates.is_expand_A, 1, block)
    score_A = np.log(np.maximum(mass_A, 1e-12))
    for alike_A in (candidates.is_expand_A, ~candidates.is_expand_A):
        if alike_A.any():
            spread = max(float(score_A[alike_A].std()), 1e-12)
            score_A[alike_A] = (score_A[alike_A] - score_A[alike_A].mean()) / spread
    return replace(candidates, score_A=score_A)


def similarity_scores(view: View) -> Candidates:
    """Largest cosine of a node's gist with one of the last complete blocks', standardised over candidates.

    Gists are taken less the mean of their level, without which all of a document's are much alike.
    """
    lod_map = view.lod_map
    tree, candidates = lod_map.tree, view.candidates()
    last_block = lod_map.cursor // tree.block_size
    similarity_A = np.zeros(len(candidates))
    for level in range(1, tree.max_level + 1):
        of_level_A = candidates.actions.level_A == level
        if of_level_A.any():
            nodes_Md = _directions(view.document.embeddings[level], lod_map.cursor // tree.block_size**level)
            tail_Rd = _directions(view.document.embeddings[1], last_block)[-_NUM_TAIL:]
            cosine_A = nodes_Md[torch.from_numpy(candidates.actions.index_A[of_level_A])] @ tail_Rd.T
            similarity_A[of_level_A] = cosine_A.amax(dim=1).double().numpy()
    return _retrieved(view, candidates, similarity_A)


def word_scores(view: View) -> Candidates:
    """Rare words that a node's span shares with the last complete blocks, standardised over candidates."""
    tokens_T, candidates = view.document.tokens_T.cpu().numpy(), view.candidates()
    lod_map, block = view.lod_map, view.lod_map.tree.block_size
    cursor = lod_map.cursor
    spans = [lod_map.tree.span(candidates.actions.action(i).node) for i in range(len(candidates))]
    read = range(cursor - _NUM_TAIL * block, cursor)
    shared_A = overlaps(tokens_T, range(lod_map.start, cursor), read, spans, block)
    return _retrieved(view, candidates, shared_A)


def _retrieved(view: View, candidates: Candidates, likeness_A: FloatArray) -> Candidates:
    """Likeness as a value of detail, in its own standard deviations, less the price.

    The least alike is worth 0 and nothing is worth less, so that what stands in full gives way only to what
    is more alike.
    """
    if not len(candidates):
        return candidates
    score_A = (likeness_A - likeness_A.min()) / max(float(likeness_A.std()), 1e-12)
    room = view.budget - view.lod_map.num_entries
    return subtract_price(replace(candidates, score_A=score_A), room, view.lod_map.tree.block_size - 1)


def _directions(gists_Md: Tensor, num_complete: int) -> Tensor:
    """The complete nodes' gists less their mean, at unit length."""
    complete_Md = gists_Md[:num_complete].float().cpu()
    return torch.nn.functional.normalize(complete_Md - complete_Md.mean(dim=0), dim=1)


def lensnet_scores(scorer: LensNetScorer) -> Callable[[View], Candidates]:
    def scores(view: View) -> Candidates:
        scores_N = scorer.scores(
            view.lod_map, view.document.embeddings, budget=view.budget, protected_tail=view.protected_tail
        )
        return view.candidates(scores_N)

    return scores


@dataclass(frozen=True)
class Hindsight:
    """Scores that know what comes next: exact effects on the next K tokens, in nats per token.

    Every collapse is a candidate; of the expands, those which a cheap estimate (nothing but the edit and the
    tokens read is recomputed) likes best, up to `max_candidates` altogether.
    """

    max_candidates: int
    literal: bool = False

    def __call__(self, view: View) -> Candidates:
        candidates = view.candidates()
        values = self.values_of_detail(view, candidates)
        if self.literal:
            return candidates.rescored({action: _literal(action, v) for action, v in values.items()})
        room = view.budget - view.lod_map.num_entries
        return subtract_price(candidates.rescored(values), room, view.lod_map.tree.block_size - 1)

    def values_of_detail(self, view: View, candidates: Candidates) -> dict[Action, float]:
        """Measured value of detail per action, nats per token over the next K tokens."""
        block = view.lod_map.tree.block_size
        trajectory = Trajectory(view.lod_map, (view.lod_map.cursor,), block)
        baseline = view.reader.read(view.lod_map, block)
        every = [candidates.actions.action(i) for i in range(len(candidates))]
        collapses = [action for action in every if action.kind == "collapse"]
        expands = [action for action in every if action.kind == "expand"]
        num_expands = max(1, self.max_candidates - len(collapses))
        if len(expands) > num_expands:
            rough = _values(view, trajectory, expands, baseline, window=0)
            expands = sorted(expands, key=lambda action: -rough[action])[:num_expands]
        return _values(view, trajectory, [*expands, *collapses], baseline, window=None)


def _values(
    view: View, trajectory: Trajectory, actions: Sequence[Action], baseline: Baseline, window: int | None
) -> dict[Action, float]:
    edits = [action_edit(trajectory, action) for action in actions]
    measured = measure_edits(
        view.reader.model, view.document, trajectory, edits, baseline, view.batching, window=window
    )
    signs = (-1.0 if action.kind == "expand" else 1.0 for action in actions)
    return {
        action: sign * float(delta_H.mean())
        for action, sign, delta_H in zip(actions, signs, measured.deltas, strict=True)
    }


def _literal(action: Action, value: float) -> float:
    """Target utility of `datasets/sql/targets/literal.sql` from a value of detail."""
    return max(0.0, value) if action.kind == "expand" else -max(0.0, value)
