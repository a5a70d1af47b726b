"""Oracle policies, the ceilings of closed-loop evaluation: they know what a real policy cannot.

`Hindsight` measures the effects of edits on the very tokens that it is then judged on, and what it gains that
way may not outlast them; no policy can follow it there. `RecallOracle` knows which planted facts are asked
for and where they stand: it shows them as tokens from the refocus after their question until their answer,
and the oldest text makes room for them. It says what perfect retrieval is worth; where nothing was planted it
gives up the oldest text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mctrace.analysis.closed_loop.policies import Observation
from mctrace.collect.corpus.recall_documents import asked_in
from mctrace.collect.measuring.evaluator import Baseline, measure_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import Action
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.pricing import subtract_price
from mctrace.context.trajectory import Trajectory

ORACLE_ALLOCATOR = AllocatorConfig(
    expand_threshold=1e-9, collapse_threshold=1e-9, cooldown=0, reversal_threshold=1e-9, reversal_steps=0
)
"""For exact scores: every edit that gains is made, and undone when that gains."""


@dataclass(frozen=True)
class Hindsight:
    """Exact effects on the next K tokens as scores, in nats per token.

    Every collapse is a candidate, and those expands that a cheap estimate (only the edit and the tokens read
    are recomputed) ranks highest, up to `max_candidates` altogether.
    """

    max_candidates: int
    literal: bool = False

    def __call__(self, observation: Observation) -> Candidates:
        candidates = observation.candidates()
        values = self.values_of_detail(observation, candidates)
        if self.literal:
            return candidates.rescored({action: _literal(action, v) for action, v in values.items()})
        room = observation.budget - observation.lod_map.num_entries
        return subtract_price(candidates.rescored(values), room)

    def values_of_detail(self, observation: Observation, candidates: Candidates) -> dict[Action, float]:
        """Measured value of detail per action, nats per token over the next K tokens."""
        block = observation.lod_map.tree.block_size
        trajectory = Trajectory(observation.lod_map, (observation.lod_map.cursor,), block)
        baseline = observation.reader.read(observation.lod_map, block)
        every = [candidates.actions.action(i) for i in range(len(candidates))]
        collapses = [action for action in every if not action.shows_more]
        expands = [action for action in every if action.shows_more]
        num_expands = max(1, self.max_candidates - len(collapses))
        if len(expands) > num_expands:
            rough = _values(observation, trajectory, expands, baseline, window=0)
            expands = sorted(expands, key=lambda action: -rough[action])[:num_expands]
        return _values(observation, trajectory, [*expands, *collapses], baseline, window=None)


def _values(
    observation: Observation,
    trajectory: Trajectory,
    actions: Sequence[Action],
    baseline: Baseline,
    window: int | None,
) -> dict[Action, float]:
    edits = [action_edit(trajectory, action) for action in actions]
    measured = measure_edits(
        observation.reader.model,
        observation.document,
        trajectory,
        edits,
        baseline,
        observation.batching,
        window=window,
    )
    signs = (-1.0 if action.shows_more else 1.0 for action in actions)
    return {
        action: sign * float(delta_H.mean())
        for action, sign, delta_H in zip(actions, signs, measured.deltas, strict=True)
    }


def _literal(action: Action, value: float) -> float:
    """Target utility of `datasets/sql/targets/literal.sql` from a value of detail."""
    return max(0.0, value) if action.shows_more else -max(0.0, value)


_AWAITED = 1.0
_OLDEST, _NEWEST = 0.1, 0.2
"""Values of detail of which only the order matters: awaited facts, and tokens by place, oldest to newest."""


@dataclass(frozen=True)
class AskedFact:
    """Token ranges of a document: the statement of a fact, from its question's end to its answer's, and the
    value in the answer."""

    stated: range
    awaited: range
    answered: range
    value: str


def asked_facts(tokens_T: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[AskedFact]:
    """The facts that a recall document asks for.

    Empty for any other document, and where tokenising the document's text gives other tokens.
    """
    text = str(tokenizer.decode(tokens_T.tolist()))
    asked = asked_in(text)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    if not asked or encoded["input_ids"] != tokens_T.tolist():
        return []
    starts_T, ends_T = np.array(encoded["offset_mapping"]).T

    def tokens_of(words: str, after: int = 0) -> range:
        at = text.index(words, after)
        first = np.searchsorted(ends_T, at, side="right")
        return range(int(first), int(np.searchsorted(starts_T, at + len(words))))

    found = []
    for fact in asked:
        question, answer = tokens_of(fact.question), tokens_of(fact.answer)
        value = tokens_of(fact.value, text.index(fact.answer))
        awaited = range(question.stop, answer.stop)
        found.append(AskedFact(tokens_of(fact.statement), awaited, value, fact.value))
    return found


@dataclass(frozen=True)
class RecallOracle:
    """Scores of the policy `told`; caches the facts of the documents it has seen."""

    tokenizer: PreTrainedTokenizerBase
    _facts: dict[str, list[AskedFact]] = field(default_factory=dict)

    def __call__(self, observation: Observation) -> Candidates:
        if observation.document_id not in self._facts:
            self._facts[observation.document_id] = asked_facts(observation.document.tokens_T, self.tokenizer)
        return recall_oracle_scores(self._facts[observation.document_id], observation)


def recall_oracle_scores(facts: list[AskedFact], observation: Observation) -> Candidates:
    """Values of detail: highest for spans that state an awaited fact, else by place for what is shown."""
    candidates, cursor, tree = observation.candidates(), observation.lod_map.cursor, observation.lod_map.tree
    awaited = [fact.stated for fact in facts if cursor in fact.awaited]

    def value(place: int) -> float:
        action = candidates.actions.action(place)
        first, end = tree.span(action.node)
        if any(stated.start < end and first < stated.stop for stated in awaited):
            return _AWAITED
        return 0.0 if action.shows_more else _OLDEST + (_NEWEST - _OLDEST) * first / cursor

    values_A = np.array([value(place) for place in range(len(candidates))])
    room = observation.budget - observation.lod_map.num_entries
    return subtract_price(replace(candidates, score_A=values_A), room)
