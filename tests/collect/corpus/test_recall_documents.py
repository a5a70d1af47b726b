"""Recall documents: planted facts, questions, and the distance from a question to its answer."""

import sysconfig
from dataclasses import astuple, fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.recall_documents import (
    CARRIER_CHARACTERS,
    NUM_DISTRACTORS,
    NUM_QUESTIONS,
    RecallText,
    asked_in,
    make_recall_text,
    recall_texts,
)
from mctrace.collect.corpus.recall_wordings import WORDINGS, Wording
from mctrace.errors import InputError

REFOCUS = 32


def carrier(seed: int = 0, num_characters: int = CARRIER_CHARACTERS + 2000) -> str:
    """Paragraphs of made-up words that no fact contains."""
    generator = np.random.default_rng(seed)
    paragraphs, size = [], 0
    while size < num_characters:
        words = ["".join(generator.choice(list("xqjwvy"), 9)) for _ in range(60)]
        paragraphs.append(" ".join(words) + ".\n\n")
        size += len(paragraphs[-1])
    return "".join(paragraphs)


@pytest.fixture(scope="module")
def made() -> RecallText:
    (made,) = recall_texts("carrier", carrier())
    return made


def test_a_document_follows_from_its_carrier_and_its_name(made):
    (again,) = recall_texts("carrier", carrier())
    (other,) = recall_texts("other", carrier())
    assert again == made
    assert {fact.value for fact in other.asked}.isdisjoint(fact.value for fact in made.asked)


def test_a_carrier_gives_as_many_documents_as_it_is_long_and_none_when_too_short():
    assert not list(recall_texts("short", carrier(num_characters=CARRIER_CHARACTERS // 2)))
    several = list(recall_texts("long", carrier(num_characters=3 * CARRIER_CHARACTERS + 3000)))
    assert len(several) == 3
    assert len({made.text for made in several}) == 3


def test_only_the_planted_fact_tells_the_value_that_is_asked_for(made):
    assert len(made.asked) == NUM_QUESTIONS
    assert len(made.distractors) == NUM_DISTRACTORS
    for fact in made.asked:
        assert made.text.count(fact.statement) == made.text.count(fact.question) == 1
        assert made.text.count(fact.value) == 2
        places = [made.text.index(words) for words in (fact.statement, fact.question, fact.answer)]
        assert places == sorted(places)
        assert fact.value not in fact.question
        assert fact.who in fact.statement
        assert fact.who in fact.question
    for fact in made.distractors:
        assert made.text.count(fact.value) == 1
    everybody = [fact.who for fact in (*made.asked, *made.distractors)]
    assert len(set(everybody)) == len(everybody)


def test_the_facts_that_are_asked_for_are_found_again_in_the_text(made):
    assert asked_in(made.text) == list(made.asked)
    assert asked_in(carrier()) == []


def test_recall_documents_end_in_questions_and_answers_with_little_filler(made):
    exam = made.text[made.text.index("Question: ") :]
    answers = sum(len(fact.answer.split()) for fact in made.asked)
    questions = sum(len(fact.question.split()) for fact in made.asked)
    assert answers + questions > 0.8 * len(exam.split())


def test_every_kind_of_question_has_distractors_of_its_kind(made):
    kinds = {fact.relation for fact in made.asked}
    assert kinds <= {fact.relation for fact in made.distractors}


def test_facts_are_planted_in_the_first_half_between_paragraphs(made):
    text = made.text
    for fact in (*made.asked, *made.distractors):
        first = text.index(fact.statement)
        assert first < 0.55 * len(text)
        assert first == 0 or text[first - 2 : first] == "\n\n"
        assert text[first + len(fact.statement) :].startswith("\n\n")


def test_the_carrier_is_complete_apart_from_the_filler_words(made):
    """Without the facts, and up to the questions, the document is its carrier word for word."""
    text = made.text[: made.text.index("Question: ")]
    for fact in (*made.asked, *made.distractors):
        text = text.replace(f"{fact.statement}\n\n", "")
    assert carrier().startswith(text.rstrip())
    assert len(text) >= 0.8 * CARRIER_CHARACTERS


def test_no_word_of_the_carrier_is_repeated(made):
    words = [word for word in made.text.split() if set(word) <= set("xqjwvy.")]
    assert len(words) > 1000
    assert len(set(words)) == len(words)


def gaps(made: RecallText, tokenizer) -> list[tuple[int, int]]:
    """Per question: tokens from its end, and from its fact's end, to where its answer begins."""

    def num_tokens(end: int) -> int:
        return len(tokenizer.encode(made.text[:end], add_special_tokens=False, verbose=False))

    found = []
    for fact in made.asked:
        answer = num_tokens(made.text.index(fact.answer))
        question = num_tokens(made.text.index(fact.question) + len(fact.question))
        statement = num_tokens(made.text.index(fact.statement) + len(fact.statement))
        found.append((answer - question, answer - statement))
    return found


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["argparse.py", "typing.py"])
def test_a_question_ends_a_refocus_before_its_answer_and_the_fact_thousands_of_tokens_before(name):
    text = (Path(sysconfig.get_path("stdlib")) / name).read_text()
    tokenizer = resolve_model(SMOLLM2_ALIAS).load_tokenizer()
    for made in list(recall_texts(name, text))[:2]:
        times, distances = zip(*gaps(made, tokenizer), strict=True)
        assert min(times) >= REFOCUS
        assert max(times) < 8 * REFOCUS
        assert min(distances) > 1000
        assert np.median(distances) > 1800


def test_a_carrier_that_is_one_long_line_still_leaves_time_before_answers():
    made = make_recall_text("one line", ["word " * 30])
    for fact in made.asked:
        between = made.text[made.text.index(fact.question) + len(fact.question) :]
        assert len(between[: between.index(fact.answer)].split()) >= REFOCUS + 8


def test_recall_is_a_corpus_over_any_other(tmp_path):
    (tmp_path / "long.txt").write_text(carrier(num_characters=2 * CARRIER_CHARACTERS + 3000))
    (tmp_path / "short.txt").write_text("too short to carry anything")
    skipped = Skipped()
    texts = list(read_corpus([f"recall:{tmp_path}"], skipped))
    folder = tmp_path.name
    assert [text.source for text in texts] == [f"recall:{folder}/long.txt#1", f"recall:{folder}/long.txt#2"]
    assert all("Question: " in text.text for text in texts)
    assert skipped.counts["too short to plant facts in"] == 1
    assert len(list(read_corpus(["recall:pydoc-topics"], skipped))) > 10


def words_of(wording: Wording) -> set[str]:
    fillers = {field.name for field in fields(wording)} - {"relations"}
    return {word for name in fillers for word in getattr(wording, name)}


def test_wordings_share_no_sentence_no_name_and_no_value_word():
    for one, other in combinations(WORDINGS.values(), 2):
        assert words_of(one).isdisjoint(words_of(other))
        of_one, of_other = ({t for r in w.relations for t in astuple(r)[:3]} for w in (one, other))
        assert of_one.isdisjoint(of_other)


@pytest.mark.parametrize("name", sorted(WORDINGS))
def test_every_wording_asks_for_planted_facts_that_are_found_again(name):
    (made,) = recall_texts("carrier", carrier(), WORDINGS[name])
    assert asked_in(made.text) == list(made.asked)
    assert {fact.relation for fact in made.asked} == set(WORDINGS[name].relations)
    for fact in made.asked:
        assert made.text.count(fact.value) == 2
        assert fact.answer.endswith(f"{fact.value}.")


def test_the_corpus_path_says_which_wording_is_planted(tmp_path):
    (tmp_path / "long.txt").write_text(carrier())
    for prefix, name in (("recall:", "training"), ("recall-development:", "development")):
        (text,) = read_corpus([f"{prefix}{tmp_path}"], Skipped())
        assert text.source == f"{prefix}{tmp_path.name}/long.txt#1"
        assert {fact.relation for fact in asked_in(text.text)} <= set(WORDINGS[name].relations)


def test_recall_without_a_carrier_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="lacks what to plant facts in"):
        list(read_corpus(["recall:"], Skipped()))
    with pytest.raises(InputError, match="does not exist"):
        list(read_corpus([f"recall:{tmp_path}/nowhere"], Skipped()))
