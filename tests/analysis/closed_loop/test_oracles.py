"""The recall oracle finds the tokens of facts and shows them while they are awaited."""

import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mctrace.analysis.closed_loop.oracles import AskedFact, asked_facts, recall_oracle_scores
from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
from mctrace.collect.corpus.recall_documents import recall_texts
from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape

TREE = TreeShape(4, 1)


@pytest.mark.real_model
def test_facts_are_found_where_their_tokens_are():
    tokenizer = resolve_model(SMOLLM2_ALIAS).load_tokenizer()
    carrier = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    made = next(recall_texts("argparse.py", carrier))
    tokens_T = torch.tensor(tokenizer.encode(made.text, add_special_tokens=False))
    facts = asked_facts(tokens_T, tokenizer)
    assert len(facts) == len(made.asked)
    for fact, asked in zip(made.asked, facts, strict=True):
        assert fact.statement in tokenizer.decode(tokens_T[asked.stated.start : asked.stated.stop])
        awaited = tokenizer.decode(tokens_T[asked.awaited.start : asked.awaited.stop])
        assert fact.question not in awaited
        assert fact.answer in awaited
        assert len(asked.stated) < 60
        answered = tokenizer.decode(tokens_T[asked.answered.start : asked.answered.stop])
        assert answered.strip().rstrip(".") == fact.value == asked.value
    assert asked_facts(torch.tensor(tokenizer.encode(carrier[:4000])), tokenizer) == []


def wanted(facts: list[AskedFact], levels: list[int], budget: int) -> tuple[set[int], set[int]]:
    """Blocks that the policy wants to expand, and those it wants to collapse for them."""
    lod_map = LODMap(TREE, 0, 4 * len(levels), np.array(levels, dtype=np.uint8))

    def candidates(score_N=None):
        return candidates_of(lod_map, 4, score_N)

    scored = recall_oracle_scores(
        facts, SimpleNamespace(candidates=candidates, lod_map=lod_map, budget=budget)
    )
    index_A, wish_A = scored.actions.index_A, np.where(scored.is_expand_A, 1, -1) * scored.score_A
    return (
        set(index_A[scored.is_expand_A & (wish_A > 0)].tolist()),
        set(index_A[~scored.is_expand_A & (wish_A > 0)].tolist()),
    )


LEVELS = [1, 1, 1, 1, 0, 0, 0, 0]
NUM_ENTRIES = 4 + 16


def test_awaited_facts_are_expanded_and_the_oldest_text_makes_room():
    facts = [
        AskedFact(range(5, 7), range(30, 40), range(37, 39), "one"),
        AskedFact(range(9, 10), range(33, 40), range(39, 40), "other"),
    ]
    assert wanted(facts, LEVELS, NUM_ENTRIES) == ({1}, {4})
    assert wanted(facts[1:], LEVELS, NUM_ENTRIES) == (set(), set()), "not asked yet"
    across = [AskedFact(range(7, 9), range(30, 40), range(38, 39), "one")]
    assert wanted(across, LEVELS, NUM_ENTRIES) == ({1, 2}, {4, 5})
