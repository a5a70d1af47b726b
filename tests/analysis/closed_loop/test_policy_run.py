"""The closed loop on a tiny model: reading equals plain passes, budgets hold, hindsight is exact."""

import dataclasses

import numpy as np
import pytest
import torch

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop, place_loop
from mctrace.analysis.closed_loop.oracles import ORACLE_ALLOCATOR, Hindsight
from mctrace.analysis.closed_loop.policies import (
    Observation,
    Policy,
    ScoredPolicy,
    TokenWindow,
    attention_scores,
    random_scores,
    recency_scores,
    similarity_scores,
    word_scores,
)
from mctrace.analysis.closed_loop.policy_run import run_policy
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll, naive_nll
from mctrace.collect.planning.map_policies import random_map, recency_map_within
from mctrace.context.actions import Action, apply_action, legal_actions
from mctrace.context.allocator import NOTHING_RECENT, AllocatorConfig, allocate
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import ConfigError
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from mctrace.seeding import generator_for
from tests.models import VOCABULARY, tiny_model

TREE = TreeShape(block_size=4, max_level=2)
TAIL = 8
CONFIG = ClosedLoopConfig(w_max=52, window=160, refocuses=5, horizon=12, max_candidates=10, documents=2)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def document(model) -> DocumentTree:
    tokens_T = torch.randint(0, VOCABULARY, (240,), generator=torch.Generator().manual_seed(1))
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))


def view_at(model, document, cursor: int = 200, budget: int = 48) -> Observation:
    lod_map = random_map(
        TREE, 40, cursor, target_length=budget, protected_tail=TAIL, num_iterations=3,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    reader = ContextReader(model, document)
    return Observation("d", document, reader, lod_map, budget, TAIL, NOTHING_RECENT, Batching(2048), seed=0)


def test_reading_on_cached_keys_and_values_equals_a_plain_pass_after_every_edit(model, document):
    reader = ContextReader(model, document)
    lod_map = recency_map_within(TREE, 16, 160, 60, TAIL)
    generator = np.random.default_rng(0)
    num_whole = 0
    for cursor in range(160, 200, 4):
        lod_map = lod_map.extended(cursor)
        actions = legal_actions(lod_map, TAIL)
        for _ in range(int(generator.integers(0, 3))):
            lod_map = apply_action(lod_map, actions[generator.integers(len(actions))])
            actions = legal_actions(lod_map, TAIL)
        found_H = reader.read(lod_map, 12).nll_H
        torch.testing.assert_close(found_H, naive_nll(model, document, lod_map, 12), atol=1e-4, rtol=0)
        num_whole += lod_map.num_entries + 11
    assert reader.num_entries_run < 0.9 * num_whole


def test_reading_the_same_context_again_runs_only_the_tokens_read(model, document):
    reader = ContextReader(model, document)
    lod_map = recency_map_within(TREE, 16, 160, 60, TAIL)
    first_H = reader.read(lod_map, 12).nll_H
    before = reader.num_entries_run
    torch.testing.assert_close(reader.read(lod_map, 12).nll_H, first_H)
    assert reader.num_entries_run == before + 12
    # Another start moves every position, so nothing can be reused.
    moved = LODMap.of_tokens(TREE, 120, 160)
    torch.testing.assert_close(
        reader.read(moved, 12).nll_H, naive_nll(model, document, moved, 12), atol=1e-4, rtol=0
    )
    assert reader.num_entries_run == before + 12 + moved.num_entries + 11


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])  # the latter has soft caps and local windows
def test_attention_on_cached_keys_is_that_of_a_pass_over_the_whole_context(document, architecture):
    model = tiny_model(architecture)
    document = DocumentTree(
        document.tokens_T, build_tree(MeanGistNet(), model.embed(document.tokens_T), TREE)
    )
    reader = ContextReader(model, document)
    for cursor in (160, 164, 168, 180):
        lod_map = LODMap.of_tokens(TREE, 40, cursor)
        found = reader.read(lod_map, 8, attention_mass=True)
        whole = measure_baseline(model, document, Trajectory(lod_map, (cursor,), 8), attention_mass=True)
        assert whole.attention_mass_N is not None
        torch.testing.assert_close(found.attention_mass_N, whole.attention_mass_N, atol=1e-6, rtol=1e-4)
    assert reader.num_entries_run < 120 + 3 * 30


POLICIES: dict[str, Policy] = {
    "full": TokenWindow(everything=True),
    "lod0": TokenWindow(),
    "recency": ScoredPolicy(recency_scores, AllocatorConfig()),
    "random": ScoredPolicy(random_scores, AllocatorConfig()),
    "attention": ScoredPolicy(attention_scores, AllocatorConfig()),
    "similarity": ScoredPolicy(similarity_scores, AllocatorConfig()),
    "words": ScoredPolicy(word_scores, AllocatorConfig()),
    "hindsight": ScoredPolicy(Hindsight(10), ORACLE_ALLOCATOR),
    "literal_hindsight": ScoredPolicy(Hindsight(10, literal=True), ORACLE_ALLOCATOR),
}


@pytest.fixture(scope="module")
def runs(model, document):
    loop = place_loop(240, CONFIG, TREE)
    assert loop is not None
    return {
        name: run_policy(
            policy, ContextReader(model, document), "d", loop, TREE, CONFIG, TAIL, Batching(2048)
        )
        for name, policy in POLICIES.items()
    }


def test_what_one_policy_has_shown_is_not_read_again_for_another(model, document, runs):
    reader, loop = ContextReader(model, document), place_loop(240, CONFIG, TREE)
    assert loop is not None
    read = []
    for _ in range(2):
        steps = run_policy(POLICIES["recency"], reader, "d", loop, TREE, CONFIG, TAIL, Batching(2048))
        assert [step.nll_horizon for step in steps] == [step.nll_horizon for step in runs["recency"]]
        read.append(reader.num_entries_run)
    assert read[1] == read[0]
    # Others in between change nothing but the last bits.
    for name in ("lod0", "random", "words"):
        steps = run_policy(POLICIES[name], reader, "d", loop, TREE, CONFIG, TAIL, Batching(2048))
        expected = [step.nll_horizon for step in runs[name]]
        np.testing.assert_allclose([step.nll_horizon for step in steps], expected, atol=1e-5)


def test_every_policy_keeps_to_the_budget_at_the_same_places(runs):
    for name, steps in runs.items():
        assert [step.cursor for step in steps] == [212, 216, 220, 224, 228]
        if name != "full":
            assert all(step.num_entries <= CONFIG.w_max - 4 for step in steps), name
        assert all(step.num_edits <= max(4, step.num_forced) for step in steps), name
        assert all(np.isfinite([step.nll, step.nll_horizon]).all() for step in steps), name


def test_losses_are_the_model_s_own(model, document, runs):
    """For the two policies whose maps are known in advance."""
    for name, start in (("full", 52), ("lod0", None)):
        for step in runs[name]:
            first = start if start is not None else step.cursor - 48
            nll_H = naive_nll(model, document, LODMap.of_tokens(TREE, first, step.cursor), 12)
            assert step.nll_horizon == pytest.approx(float(nll_H.mean()), abs=1e-4)
            assert step.nll == pytest.approx(float(nll_H[:4].mean()), abs=1e-4)


def test_steps_are_those_of_a_loop_written_by_hand(model, document, runs):
    reader, loop, config = ContextReader(model, document), place_loop(240, CONFIG, TREE), AllocatorConfig()
    assert loop is not None
    lod_map, recent = recency_map_within(TREE, 52, 208, 48, TAIL), NOTHING_RECENT
    for step in runs["random"]:
        lod_map = lod_map.extended(step.cursor)
        view = Observation("d", document, reader, lod_map, 48, TAIL, recent, Batching(2048), seed=0)
        generator = generator_for("closed loop", "d", step.cursor, 0)
        done = allocate(lod_map, random_scores(view), 48, config, recent, generator)
        lod_map, recent = done.lod_map, done.recent
        nll_H = naive_nll(model, document, lod_map, 12)
        assert (step.num_edits, step.num_entries) == (len(done.edits), lod_map.num_entries)
        assert step.nll_horizon == pytest.approx(float(nll_H.mean()), abs=1e-4)


def test_recency_does_what_the_budget_demands_and_no_more(runs):
    assert all(step.num_edits == step.num_forced for step in runs["recency"])
    assert sum(step.num_forced for step in runs["recency"]) > 0
    assert any(step.num_edits > step.num_forced for step in runs["hindsight"])


def test_hindsight_gains_and_the_literal_target_s_perfect_learner_loses(runs):
    loss = {name: np.mean([step.nll for step in steps]) for name, steps in runs.items()}
    assert loss["hindsight"] < loss["recency"] - 0.05
    assert loss["hindsight"] < loss["literal_hindsight"] - 0.05


def test_hindsight_measures_exactly_what_it_asks_about(model, document):
    view = view_at(model, document)
    hindsight = Hindsight(max_candidates=200)
    values = hindsight.values_of_detail(view, view.candidates())
    assert set(values) == set(legal_actions(view.lod_map, TAIL))
    for action in list(values)[::5]:
        delta = float(naive_delta_nll(model, document, view.lod_map, action, 4).mean())
        assert values[action] == pytest.approx(-delta if action.kind == "expand" else delta, abs=1e-4)


def test_hindsight_takes_every_collapse_and_the_expands_that_look_best(model, document):
    view = view_at(model, document)
    every = Hindsight(200).values_of_detail(view, view.candidates())
    some = Hindsight(12).values_of_detail(view, view.candidates())
    collapses = {action for action in every if action.kind == "collapse"}
    assert collapses <= set(some)
    assert len(some) == max(12, len(collapses) + 1)
    assert all(some[action] == pytest.approx(every[action], abs=1e-4) for action in some)


def test_attention_scores_are_standardised_and_see_no_later_token(model, document):
    view = view_at(model, document)
    candidates = attention_scores(view)
    for alike_A in (candidates.is_expand_A, ~candidates.is_expand_A):
        assert candidates.score_A[alike_A].mean() == pytest.approx(0, abs=1e-9)
        assert candidates.score_A[alike_A].std() == pytest.approx(1, abs=1e-9)
    tokens_T = document.tokens_T.clone()
    tokens_T[200:] = 1
    other = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    again = attention_scores(view_at(model, other))
    np.testing.assert_allclose(again.score_A, candidates.score_A, atol=1e-9)


@pytest.mark.parametrize("scores", [similarity_scores, word_scores])
def test_retrieval_finds_what_resembles_the_tail_and_sees_no_later_token(model, scores):
    tokens_T = torch.randint(0, VOCABULARY, (240,), generator=torch.Generator().manual_seed(3))
    tokens_T[20:24] = tokens_T[156:160]
    lod_map = LODMap(TREE, 0, 160, np.array([1] * 30 + [0] * 10, dtype=np.uint8))
    found = []
    for after in (tokens_T[160:], torch.ones(80, dtype=torch.int64)):
        seen_T = torch.cat([tokens_T[:160], after])
        document = DocumentTree(seen_T, build_tree(MeanGistNet(), model.embed(seen_T), TREE))
        view = dataclasses.replace(view_at(model, document), lod_map=lod_map, budget=lod_map.num_entries)
        found.append(scores(view))
    np.testing.assert_allclose(found[0].score_A, found[1].score_A, atol=1e-9)
    roomy = dataclasses.replace(view, budget=lod_map.num_entries + 400)
    assert (scores(roomy).score_A >= 0).all()  # nothing is collapsed while there is room
    expand_score_A = np.where(found[0].is_expand_A, found[0].score_A, -np.inf)
    best = found[0].actions.action(int(np.argmax(expand_score_A)))
    assert best == Action("expand", Node(1, 5))


def test_a_loop_is_placed_at_the_end_of_a_document_or_nowhere():
    assert place_loop(240, CONFIG, TREE) == Loop(52, 212, 5, 4)
    assert place_loop(243, CONFIG, TREE) == Loop(52, 212, 5, 4)
    # The context would span no more tokens than the budget has positions.
    assert place_loop(52 + 12 + 16, CONFIG, TREE) is None
    assert place_loop(52 + 12 + 16 + 4, CONFIG, TREE) == Loop(0, 56, 5, 4)


def test_a_loop_without_its_reference_is_refused():
    with pytest.raises(ConfigError, match="recency"):
        ClosedLoopConfig(policies=("lod0",))
    with pytest.raises(ConfigError, match=r"closed_loop\.policies"):
        ClosedLoopConfig(policies=("recency", "nobody"))
