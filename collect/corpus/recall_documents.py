"""Recall documents: facts planted in real text and asked for thousands of tokens later.

A carrier (a stretch of somebody's prose or source code) gets facts between its paragraphs, in its first
half: some are asked for at the end, as many are distractors that state the same of somebody else. Each
question words the fact anew and ends at least one refocus before its answer begins, so that a policy that
reads the question has time to bring the fact back. Answers use a third wording and repeat only the
value, which nothing but the fact predicts. Between a question and its answer stand the next questions and
earlier answers: nearly half of the tokens at a document's end are answers, so that a context's value there is
mostly what it holds about them. Where that leaves too little time, words from the carrier's end fill it; they
occur nowhere else, because expanding the original of repeated text would gain more than expanding a fact.

Seeded by the carrier's name: the same text gives the same document on every machine. Sentences, names and
value words are those of a wording (`recall_wordings.py`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product

import numpy as np

from mctrace.collect.corpus.recall_wordings import TRAINING, WORDINGS, Relation, Wording
from mctrace.seeding import generator_for

NUM_QUESTIONS = 8
NUM_DISTRACTORS = 8
CARRIER_CHARACTERS = 13_500
"""of one document: about 3,200 tokens of prose, 4,300 of source code"""
MIN_WORDS_BEFORE_ANSWER = 40
"""words between a question's end and its answer; no fewer tokens, which is one refocus of K = 32 and more"""
_QUESTIONS_AHEAD = 2
"""questions that are asked between a question and its answer"""
_BODY_SHARE = 0.9
"""share of the carrier that stands before the questions; of the rest, words fill what time is missing"""
_PLANTED_SHARE = 0.5
"""share of the body, from its start, in which facts are planted"""
_LONG_PARAGRAPH = 1000
"""characters from which a paragraph is cut into its lines"""


@dataclass(frozen=True)
class Fact:
    """A relation with its blanks filled in."""

    relation: Relation
    who: str
    value: str

    @property
    def statement(self) -> str:
        return _sentence(self.relation.statement, self)

    @property
    def question(self) -> str:
        return "Question: " + _sentence(self.relation.question, self)

    @property
    def answer(self) -> str:
        return "Answer: " + _sentence(self.relation.answer, self)


@dataclass(frozen=True)
class RecallText:
    """A document, the facts that are asked for in the order of their answers, and the distractors."""

    text: str
    asked: tuple[Fact, ...]
    distractors: tuple[Fact, ...]


def recall_texts(name: str, carrier: str, wording: Wording = TRAINING) -> Iterator[RecallText]:
    """Every document that the carrier is long enough for; none when it is too short."""
    paragraphs = _paragraphs(carrier)
    first, size = 0, 0
    for end, paragraph in enumerate(paragraphs, start=1):
        size += len(paragraph)
        if size >= CARRIER_CHARACTERS:
            yield make_recall_text(f"{name}#{first}", paragraphs[first:end], wording)
            first, size = end, 0


def make_recall_text(name: str, paragraphs: Sequence[str], wording: Wording = TRAINING) -> RecallText:
    """The document that `paragraphs` carry: facts in the first half of its body, then questions and answers.

    Words of the paragraphs after the body fill the missing time between a question and its answer.
    Where there are too few of them, they repeat.
    """
    generator = generator_for("recall", name)
    facts = _facts(wording, generator, NUM_QUESTIONS + NUM_DISTRACTORS)
    asked = tuple(facts[i] for i in generator.permutation(NUM_QUESTIONS))
    ends = np.cumsum([len(paragraph) for paragraph in paragraphs])
    num_body = int(np.searchsorted(ends, _BODY_SHARE * ends[-1])) + 1
    body, rest = paragraphs[:num_body], paragraphs[num_body:] or paragraphs
    filler = cycle(" ".join(rest).split())
    planted = "".join(_plant(body, [f"{fact.statement}\n\n" for fact in facts], generator))
    exam = "\n\n".join(_exam(asked, filler))
    return RecallText(f"{planted.rstrip()}\n\n{exam}\n", asked, tuple(facts[NUM_QUESTIONS:]))


def asked_in(text: str) -> list[Fact]:
    """The facts that a document of this module asks for, found by their answers and in the order of these."""
    found: dict[int, Fact] = {}
    for wording in WORDINGS.values():
        for relation in wording.relations:
            for who in _everybody(relation.subjects, wording):
                before_value = Fact(relation, who, "").answer.removesuffix(".")
                if (at := text.find(before_value)) >= 0:
                    value = text[at + len(before_value) :].partition(".")[0]
                    found[at] = Fact(relation, who, value)
    return [found[at] for at in sorted(found)]


def _exam(asked: Sequence[Fact], filler: Iterator[str]) -> Iterator[str]:
    """Questions, each after the first few followed by the answer to an earlier one, then the last answers."""
    words_until: list[int] = []
    num_words = 0
    for number in range(len(asked) + _QUESTIONS_AHEAD):
        if number < len(asked):
            yield asked[number].question
            num_words += len(asked[number].question.split())
            words_until.append(num_words)
        if (answered := number - _QUESTIONS_AHEAD) >= 0:
            missing = MIN_WORDS_BEFORE_ANSWER - (num_words - words_until[answered])
            if missing > 0:
                yield " ".join(islice(filler, missing))
                num_words += missing
            yield asked[answered].answer
            num_words += len(asked[answered].answer.split())


def _plant(body: Sequence[str], statements: Sequence[str], generator: np.random.Generator) -> list[str]:
    """The statements between paragraphs of the body's first half, in random order and evenly spread."""
    ends = np.cumsum([len(paragraph) for paragraph in body])
    order = generator.permutation(len(statements))
    places = (np.arange(len(statements)) + generator.random(len(statements))) / len(statements)
    before = np.searchsorted(ends, places * _PLANTED_SHARE * ends[-1])
    planted: list[str] = []
    for i, paragraph in enumerate(body):
        planted += [statements[order[j]] for j in np.flatnonzero(before == i)]
        planted.append(paragraph)
    return planted


def _facts(wording: Wording, generator: np.random.Generator, count: int) -> list[Fact]:
    """Facts of every relation in turn; no two are about the same or share a value."""
    facts: list[Fact] = []
    seen: set[str] = set()
    while len(facts) < count:
        relation = wording.relations[len(facts) % len(wording.relations)]
        who = _subject(relation.subjects, wording, generator)
        fact = Fact(relation, who, _value(relation.values, wording, generator))
        if fact.who not in seen and fact.value not in seen:
            seen |= {fact.who, fact.value}
            facts.append(fact)
    return facts


def _subject(kind: str, wording: Wording, generator: np.random.Generator) -> str:
    first, last = wording.names[kind]
    return _called(kind, str(generator.choice(first)), str(generator.choice(last)))


def _everybody(kind: str, wording: Wording) -> Iterator[str]:
    return (_called(kind, first, last) for first, last in product(*wording.names[kind]))


def _called(kind: str, first: str, last: str) -> str:
    return f"{first} {last}" if kind == "people" else f"the {first} {last}"


def _value(kind: str, wording: Wording, generator: np.random.Generator) -> str:
    colour, number = generator.choice(wording.colours), generator.integers(100, 1000)
    match kind:
        case "phrases":
            return f"{colour} {generator.choice(wording.creatures)} {number}"
        case "hiding places":
            thing = generator.choice(wording.objects)
            return f"a {colour} {thing} marked {generator.choice(wording.creatures)}"
        case "numbers":
            return f"{number}-{generator.integers(100, 1000)}-{generator.choice(wording.creatures)}"
        case _:
            onsets, vowels = wording.onsets, wording.vowels
            syllables = [generator.choice(onsets) + generator.choice(vowels) for _ in range(2)]
            return str("".join(syllables) + generator.choice(wording.endings)).capitalize()


def _sentence(wording: str, fact: Fact) -> str:
    written = wording.format(who=fact.who, value=fact.value)
    return written[0].upper() + written[1:]


def _paragraphs(carrier: str) -> list[str]:
    """The carrier cut after blank lines; joined they give it back."""
    paragraphs = re.split(r"(?<=\n\n)(?!\n)", carrier)
    return [
        piece
        for paragraph in paragraphs
        for piece in (paragraph.splitlines(True) if len(paragraph) > _LONG_PARAGRAPH else [paragraph])
        if piece
    ]
