"""RULER-style tasks, made by lm-eval's own generators where these need no download.

Needles in repeated noise or among other needles, variable tracking and common words: Hsieh et al., RULER
(2024), as lm-eval-harness makes them. Its tasks over essays and SQuAD download data sets and are left out.
The question stands at the end, and the answer begins a block, so that a refocus comes right before it, when
all of the question is read. Newlines before the text fill it up.
"""

import contextlib
import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.proof.question_documents import QuestionDocument
from mctrace.analysis.closed_loop.answers import Question
from mctrace.errors import InputError

TASKS = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "variable_tracking", "common_words")
_MOST_ANSWER_TOKENS = 128
_NIAH = {
    "niah_single_1": ("repeat", "words", "numbers"),
    "niah_multikey_2": ("needle", "words", "numbers"),
    "niah_multikey_3": ("needle", "uuids", "uuids"),
}
"""haystack, keys and values of lm-eval's tasks of these names"""


def ruler_documents(
    tokenizer: PreTrainedTokenizerBase, task: str, num_tokens: int, count: int, seed: int, block_size: int
) -> list[QuestionDocument]:
    """`count` documents of a task, each of at most `num_tokens` tokens with its answer.

    The same seed gives the same documents. Raises InputError where lm-eval is not installed.
    """
    made = _generated(tokenizer, task, num_tokens - block_size, count, seed)
    return [
        _document(tokenizer, f"ruler/{task}/{num_tokens}/{seed}-{number}", task, sample, block_size)
        for number, sample in enumerate(made)
    ]


def _document(
    tokenizer: PreTrainedTokenizerBase, name: str, task: str, sample: Mapping[str, Any], block_size: int
) -> QuestionDocument:
    values = tuple(str(value) for value in sample["outputs"])
    said = " ".join(f"{n}. {value}" for n, value in enumerate(values, start=1))
    answer = f" {said if task == 'common_words' else ' '.join(values)}"
    prompt = f"{str(sample['input']).rstrip()} {str(sample['gen_prefix']).strip()}"
    newline, asked, answered = (_tokens(tokenizer, text) for text in ("\n", prompt, answer))
    tokens = newline * (-len(asked) % block_size // len(newline))
    tokens += asked
    first = len(tokens)
    tokens += answered[:_MOST_ANSWER_TOKENS]
    question = Question(first, len(tokens), values)
    return QuestionDocument(name, "ruler", task, np.array(tokens, dtype=np.int32), (question,))


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False, verbose=False)]


def _generated(
    tokenizer: PreTrainedTokenizerBase, task: str, num_tokens: int, count: int, seed: int
) -> Sequence[Mapping[str, Any]]:
    make, reseed = _generator(tokenizer, task, num_tokens, count)
    reseed(f"{seed} {task} {num_tokens}")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return make()


def _generator(
    tokenizer: PreTrainedTokenizerBase, task: str, num_tokens: int, count: int
) -> tuple[Callable[[], Sequence[Mapping[str, Any]]], Callable[[str], None]]:
    """Who makes the samples, and who seeds all randomness that this draws from."""
    # lm-eval downloads NLTK's sentence splitter on import, unless another process of a group has the rank to.
    os.environ.setdefault("LOCAL_RANK", "1")
    try:
        from lm_eval.tasks.ruler import cwe_utils, niah_utils, prepare_niah, vt_utils
    except ImportError as error:
        raise InputError(f"RULER's tasks need lm-eval ({error}): pip install 'mctrace[proof]'") from None

    def reseed(seed: str) -> None:
        for source in (random, cwe_utils.RNG):
            source.seed(seed)
        np.random.seed(int.from_bytes(random.randbytes(4)))  # lm-eval draws from the global one

    def needles() -> Sequence[Mapping[str, Any]]:
        haystack, keys, values = _NIAH[task]
        found: list[Mapping[str, Any]] = prepare_niah.generate_samples(
            prepare_niah.get_haystack(type_haystack=haystack), TOKENIZER=tokenizer,
            max_seq_length=num_tokens, template=niah_utils.TEMPLATE, type_haystack=haystack,
            type_needle_k=keys, type_needle_v=values, num_samples=count,
        )  # fmt: skip
        return found

    def variables() -> Sequence[Mapping[str, Any]]:
        shots = vt_utils.sys_vartrack_w_noise_random(
            tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5
        )
        found: list[Mapping[str, Any]] = vt_utils.sys_vartrack_w_noise_random(
            tokenizer=tokenizer, num_samples=count, max_seq_length=num_tokens, icl_example=shots[0]
        )
        return found

    def words() -> Sequence[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = cwe_utils.sys_word_pair_random(
            num_samples=count, max_seq_length=num_tokens, tokenizer=tokenizer
        )
        return found

    makers = {**dict.fromkeys(_NIAH, needles), "variable_tracking": variables, "common_words": words}
    return makers[task], reseed
