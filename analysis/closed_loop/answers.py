"""Answers in a closed loop: what a policy's context says when a question that was read has to be answered.

The document streams by as in `policy_run.py`, with a refocus every K tokens. Where an answer begins, the
frozen model reads its tokens, for their loss, and goes on by itself from the same context, greedily: does it
give the answer? What stands between the last refocus and the answer is part of the context.

An answer's own tokens come on top of the budget, the same for every policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop
from mctrace.analysis.closed_loop.policies import Policy
from mctrace.analysis.closed_loop.policy_run import refocused
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.planning.document_plan import window_start
from mctrace.context.tree import TreeShape
from mctrace.errors import ModelError

_MORE_TOKENS = 4
"""generated beyond the answer's own number, so that another spelling has room"""


@dataclass(frozen=True)
class Question:
    """Tokens [first_token, end_token) of a document that answer a question, and what counts as right."""

    first_token: int
    end_token: int
    expected: tuple[str, ...]


@dataclass(frozen=True)
class AnswerRecord:
    """One answer under one policy."""

    first_token: int
    nll: float
    """nats per token of the answer"""
    exact: float
    """share of the expected values that the generated text gives"""
    generated: str
    num_entries: int
    """positions of the context at the last refocus"""
    seconds: float
    """spent in policy and allocator, mean over the refocuses since the last answer"""


def place_answers(questions: Sequence[Question], config: ClosedLoopConfig, tree: TreeShape) -> Loop:
    """Refocuses from `config.refocuses` before the first answer to the last one at or before each answer."""
    block = tree.block_size
    first = questions[0].first_token // block * block - (config.refocuses - 1) * block
    last = questions[-1].first_token // block * block
    first = max(first, 2 * block)
    return Loop(window_start(first, config.window, tree), first, (last - first) // block + 1, block)


def run_answers(
    policy: Policy,
    reader: ContextReader,
    tokenizer: PreTrainedTokenizerBase,
    document_id: str,
    questions: Sequence[Question],
    tree: TreeShape,
    config: ClosedLoopConfig,
    protected_tail: int,
    batching: Batching,
) -> list[AnswerRecord]:
    """Every answer of the reader's document under one policy; `questions` are in the order of their answers.

    Raises ModelError when the model's loss is not finite.
    """
    waiting = list(questions)
    loop = place_answers(questions, config, tree)
    records: list[AnswerRecord] = []
    taken: list[float] = []
    for before, allocation, seconds in refocused(
        policy, reader, document_id, loop, tree, config, protected_tail, batching
    ):
        taken.append(seconds)
        while waiting and waiting[0].first_token < before.cursor + tree.block_size:
            question = waiting.pop(0)
            shown = allocation.lod_map.extended(question.first_token)
            num_tokens = question.end_token - question.first_token
            generated = str(tokenizer.decode(reader.answer(shown, num_tokens + _MORE_TOKENS)))
            nll_H = reader.nll(shown, num_tokens)
            if not torch.isfinite(nll_H).all():
                raise ModelError(
                    f"the loss after token {shown.cursor} is not finite: try model.dtype = float32"
                )
            records.append(
                AnswerRecord(
                    question.first_token, float(nll_H.double().mean()), matched(generated, question.expected),
                    generated, allocation.lod_map.num_entries, sum(taken) / max(1, len(taken)),
                )
            )  # fmt: skip
            taken = []
    return records


def matched(generated: str, expected: Sequence[str]) -> float:
    """1 where the text begins with the one value that is expected, else 0; of several, the share it has.

    A value that goes on, by a digit more for instance, is another one. White space is folded and case counts
    for nothing. Several values are what RULER's tasks ask for, counted as there.
    """
    said = _folded(generated)
    if len(expected) == 1:
        value = _folded(expected[0])
        return float(said.startswith(value) and not said[len(value) : len(value) + 1].isalnum())
    return sum(_folded(value) in said for value in expected) / len(expected)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
