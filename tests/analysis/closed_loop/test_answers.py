"""Answers: generation equals plain passes token by token, and is asked for where the answer begins."""

import pytest
import torch

from mctrace.analysis.closed_loop.answers import Question, matched, place_answers, run_answers
from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.policies import TokenWindow
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.measuring.naive_evaluator import naive_nll
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.context.working_context import gather_embeddings
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.models import CONFIGS, VOCABULARY, tiny_model

TREE = TreeShape(block_size=4, max_level=2)
CONFIG = ClosedLoopConfig(w_max=52, window=160, refocuses=5, horizon=12)


class Letters:
    """A tokenizer whose token n is the letter number n."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)


def make_document(model) -> DocumentTree:
    tokens_T = torch.randint(0, VOCABULARY, (240,), generator=torch.Generator().manual_seed(1))
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))


def answer_by_whole_passes(model, document: DocumentTree, lod_map: LODMap, num_tokens: int) -> list[int]:
    """Every token by a pass of the whole context and all tokens before it, with nothing cached."""
    entries, answer = lod_map.entries, list[int]()
    position_N = torch.from_numpy(entries.position_N(lod_map.start))
    for _ in range(num_tokens):
        embeddings_Nd = torch.cat(
            [gather_embeddings(entries, document.embeddings), model.embed(torch.tensor(answer).long())]
        )
        further = torch.arange(len(answer)) + lod_map.cursor - lod_map.start
        with torch.inference_mode():
            logits_HV = model.logits(
                embeddings_Nd, torch.cat([position_N, further]), torch.tensor([len(embeddings_Nd) - 1])
            )
        answer.append(int(logits_HV[0].argmax()))
    return answer


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_an_answer_equals_one_by_whole_passes_whatever_was_read_before(name):
    model = tiny_model(name)
    document = make_document(model)
    reader = ContextReader(model, document)
    lod_map = recency_map_within(TREE, 16, 160, 60, 8)
    for shown in (lod_map, lod_map.extended(163), lod_map.extended(170)):
        expected = answer_by_whole_passes(model, document, shown, 6)
        assert reader.answer(shown, 6) == expected
        torch.testing.assert_close(
            reader.read(shown, 5).nll_H, naive_nll(model, document, shown, 5), atol=1e-4, rtol=0
        )
        assert reader.answer(shown, 7)[:6] == expected


def test_an_answer_runs_the_context_once_and_each_further_token_alone():
    model = tiny_model()
    reader = ContextReader(model, make_document(model))
    lod_map = recency_map_within(TREE, 16, 160, 60, 8)
    for _ in range(2):
        reader.answer(lod_map, 6)
        assert reader.num_entries_run == lod_map.num_entries + 5


def test_answers_are_given_from_the_context_of_the_last_refocus_before_them():
    model = tiny_model()
    document = make_document(model)
    questions = [Question(201, 206, ("x",)), Question(202, 204, ("x",)), Question(224, 230, ("x",))]
    loop = place_answers(questions, CONFIG, TREE)
    assert (loop.first_cursor, loop.cursors[-1]) == (184, 224)
    reader = ContextReader(model, document)
    found = run_answers(TokenWindow(), reader, Letters(), "d", questions, TREE, CONFIG, 8, Batching(2048))
    assert [one.first_token for one in found] == [201, 202, 224]
    for one, question in zip(found, questions, strict=True):
        cursor = question.first_token // 4 * 4
        shown = LODMap.of_tokens(TREE, cursor - 48, question.first_token)
        num_tokens = question.end_token - question.first_token
        expected_H = naive_nll(model, document, shown, num_tokens)
        assert one.nll == pytest.approx(float(expected_H.mean()), abs=1e-4)
        assert one.num_entries == 48
        expected = answer_by_whole_passes(model, document, shown, num_tokens + 4)
        assert one.generated == Letters().decode(expected)


def test_one_value_has_to_come_first_and_several_anywhere():
    assert matched(" Blue Otter 77.\nMore", ("blue otter 77",)) == 1
    assert matched("The blue otter 77", ("blue otter 77",)) == 0
    assert matched("blue otter 7", ("blue otter 77",)) == 0
    assert matched("blue otter 771.", ("blue otter 77",)) == 0
    assert matched("\nblue  otter 77", ("blue otter 77",)) == 1
    assert matched("ABC, DEF and so on", ("DEF", "XYZ", "abc", "QQQ")) == 0.5
