"""What recall could gain: a policy that is told which planted facts are asked for and not answered yet.

Hindsight chooses by the losses that it is judged on, and what it gains so may not outlast them; no policy can
follow it there. This one knows what a reader of the questions could know, and where to look: it shows those
facts as tokens from the refocus after their question until their answer, and what makes room for them is the
oldest text. It says what perfect retrieval is worth. Where nothing was planted it gives up the oldest text.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mctrace.analysis.closed_loop.policies import View
from mctrace.collect.corpus.recall import asked_in
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.pricing import subtract_price

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
class Told:
    """Scores of the policy; remembers the facts of the documents it has seen."""

    tokenizer: PreTrainedTokenizerBase
    _facts: dict[str, list[AskedFact]] = field(default_factory=dict)

    def __call__(self, view: View) -> Candidates:
        if view.document_id not in self._facts:
            self._facts[view.document_id] = asked_facts(view.document.tokens_T, self.tokenizer)
        return told_scores(self._facts[view.document_id], view)


def told_scores(facts: list[AskedFact], view: View) -> Candidates:
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
    return subtract_price(replace(candidates, score_A=values_A), room, tree.block_size - 1)
