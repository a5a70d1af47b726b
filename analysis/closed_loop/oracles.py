"""What recall could gain: a policy that is told which planted facts are asked for and not answered yet.

Hindsight chooses by the losses that it is judged on, and what it gains so may not outlast them; no policy can
follow it there. This one knows what a reader of the questions could know, and where to look: it shows those
facts as tokens from the refocus after their question until their answer, and what makes room for them is the
oldest text. It says what perfect retrieval is worth. Where nothing was planted it gives up the oldest text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mctrace.analysis.closed_loop.policies import Observation
from mctrace.collect.corpus.recall import asked_in
from mctrace.collect.measuring.evaluator import Baseline, measure_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import Action
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.pricing import less_price
from mctrace.context.trajectory import Trajectory

_AWAITED = 1.0
_OLDEST, _NEWEST = 0.1, 0.2
"""values of detail that only their order means anything of: of tokens by their place, oldest to newest"""


@dataclass(frozen=True)
class AskedFact:
    """Tokens of a document: those that state a fact, and those between its question and its answer's end."""

    stated: range
    awaited: range


def asked_facts(tokens_T: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[AskedFact]:
    """The facts that a recall document asks for; none in any other document, or where tokens are not those
    that its text gives again."""
    text = str(tokenizer.decode(tokens_T.tolist()))
    asked = asked_in(text)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    if not asked or encoded["input_ids"] != tokens_T.tolist():
        return []
    starts_T, ends_T = np.array(encoded["offset_mapping"]).T

    def tokens_of(words: str) -> range:
        at = text.index(words)
        first = np.searchsorted(ends_T, at, side="right")
        return range(int(first), int(np.searchsorted(starts_T, at + len(words))))

    found = []
    for fact in asked:
        question, answer = tokens_of(fact.question), tokens_of(fact.answer)
        found.append(AskedFact(tokens_of(fact.statement), range(question.stop, answer.stop)))
    return found


@dataclass(frozen=True)
class RecallOracle:
    """Scores of the policy; remembers the facts of the documents it has seen."""

    tokenizer: PreTrainedTokenizerBase
    _facts: dict[str, list[AskedFact]] = field(default_factory=dict)

    def __call__(self, view: Observation) -> Candidates:
        if view.document_id not in self._facts:
            self._facts[view.document_id] = asked_facts(view.document.tokens_T, self.tokenizer)
        return recall_oracle_scores(self._facts[view.document_id], view)


def recall_oracle_scores(facts: list[AskedFact], view: Observation) -> Candidates:
    """Values of detail: highest for what states something awaited, else for what is shown by its place."""
    candidates, cursor, tree = view.candidates(), view.lod_map.cursor, view.lod_map.tree
    awaited = [fact.stated for fact in facts if cursor in fact.awaited]

    def value(place: int) -> float:
        action = candidates.actions.action(place)
        first, end = tree.span(action.node)
        if any(stated.start < end and first < stated.stop for stated in awaited):
            return _AWAITED
        return _OLDEST + (_NEWEST - _OLDEST) * first / cursor if action.kind == "collapse" else 0.0

    values_A = np.array([value(place) for place in range(len(candidates))])
    room = view.budget - view.lod_map.num_entries
    return less_price(replace(candidates, score_A=values_A), room, tree.block_size - 1)


ORACLE_ALLOCATOR = AllocatorConfig(
    expand_threshold=1e-9, collapse_threshold=1e-9, cooldown=0, reversal_threshold=1e-9, reversal_steps=0
)
"""For scores that are known rather than guessed: whatever gains is done, and undone when that gains."""


@dataclass(frozen=True)
class Hindsight:
    """Scores that know what comes next: exact effects on the next K tokens, in nats per token.

    Every collapse is a candidate; of the expands, those which a cheap estimate (nothing but the edit and the
    tokens read is recomputed) likes best, up to `max_candidates` altogether.
    """

    max_candidates: int
    literal: bool = False

    def __call__(self, view: Observation) -> Candidates:
        candidates = view.candidates()
        values = self.values_of_detail(view, candidates)
        if self.literal:
            return candidates.rescored({action: _literal(action, v) for action, v in values.items()})
        room = view.budget - view.lod_map.num_entries
        return less_price(candidates.rescored(values), room, view.lod_map.tree.block_size - 1)

    def values_of_detail(self, view: Observation, candidates: Candidates) -> dict[Action, float]:
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
    view: Observation,
    trajectory: Trajectory,
    actions: Sequence[Action],
    baseline: Baseline,
    window: int | None,
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
