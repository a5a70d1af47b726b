"""Where a LensNet leads: scores as in training, maps within the budget, and labels measured there."""

import dataclasses

import numpy as np
import pytest
import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.planning.document_plan import MapMaker, plan_document
from mctrace.collect.planning.lensnet_policy import (
    LensNetScorer,
    OnPolicyConfig,
    OnPolicyMaps,
    embed_document,
    load_scorer,
)
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.collect.running.calibration import calibration_id
from mctrace.context.allocator import NOTHING_RECENT, AllocatorConfig, allocate
from mctrace.context.allocator_candidates import candidates_of
from mctrace.context.lod_map import LODMap
from mctrace.context.word_matches import word_matches
from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.store.store import open_store
from mctrace.errors import ConfigError, InputError
from mctrace.gists.network.anchored_gists import KeptGists
from mctrace.gists.network.gistnet import MeanGistNet
from mctrace.seeding import generator_for
from mctrace.train.inference import score
from tests.collect.lensnets import save_random_lensnet
from tests.collect.making import PROVENANCE, TREE, make_document, make_plan, small_config
from tests.collect.runs import tiny_run
from tests.models import WIDTH, tiny_model

TAIL, BUDGET = 8, 48


@pytest.fixture
def scorer(tmp_path) -> LensNetScorer:
    return load_scorer(save_random_lensnet(tmp_path / "lens", PROVENANCE, WIDTH), PROVENANCE)


@pytest.fixture
def value_scorer(tmp_path) -> LensNetScorer:
    folder = save_random_lensnet(tmp_path / "value", PROVENANCE, WIDTH, target="value")
    return load_scorer(folder, PROVENANCE, balances=True)


def scores(scorer: LensNetScorer, lod_map: LODMap, tree: DocumentTree, budget: int = BUDGET) -> np.ndarray:
    embeddings = TreeEmbeddings([nodes_Md.float() for nodes_Md in tree.embeddings])
    context = Context(lod_map, embeddings, tokens_T=tree.tokens_T.numpy())
    found = scorer.scorer.score(context, rebalanced=scorer.balances, budget=budget, protected_tail=TAIL)
    return found.double().numpy()


def maps(scorer: LensNetScorer, **rules: float) -> OnPolicyMaps:
    config = OnPolicyConfig(BUDGET, TAIL, 6, AllocatorConfig(**rules))
    return OnPolicyMaps(scorer, tiny_model(), MeanGistNet(), config)


@pytest.mark.parametrize("match_words", [False, True])
def test_a_lensnet_scores_a_context_that_is_read_as_it_does_in_training(tiny_settings, tmp_path, match_words):
    run = tiny_run(tiny_settings, tmp_path)
    run.measure()
    data = open_training_data(open_store(run.config.store.uri).at())
    folder = save_random_lensnet(
        tmp_path / "lens", run.plan.provenance, data.embedding_dim, match_words=match_words
    )
    scorer = load_scorer(folder, run.plan.provenance)
    snapshot = data.snapshots("train")[0]
    one = dataclasses.replace(data, splits={"train": (snapshot,)})
    (batch,) = list(ordered_batches(one, "train", 1, match_words=match_words))
    stored = data.arrays.document(snapshot.document_id, snapshot.head.provenance)
    tokens_Td = stored.rows(0, np.arange(len(stored.tokens)))
    tree = DocumentTree(torch.from_numpy(stored.tokens), [tokens_Td, *stored.gists])
    found_N = scores(scorer, snapshot.lod_map, tree)
    np.testing.assert_allclose(
        found_N, score(scorer.scorer.network, batch, signed=True)[0].numpy(), atol=1e-6
    )
    assert found_N.std() > 0.1
    limits = {"budget": BUDGET, "protected_tail": snapshot.head.protected_tail}
    live = scorer.candidates(snapshot.lod_map, tree, **limits)
    kept = scorer.scorer.candidates(stored.context(snapshot.lod_map, 0), **limits)
    np.testing.assert_allclose(live.score_A, kept.score_A, atol=1e-6)
    if match_words:
        live_NF = word_matches(snapshot.lod_map, tree.tokens_T.numpy())
        assert live_NF.any()
        np.testing.assert_array_equal(batch.word_matches[0].numpy(), live_NF.astype(np.float32))


def test_maps_of_a_network_that_matches_words_do_not_look_ahead(tmp_path):
    folder = save_random_lensnet(tmp_path / "lens", PROVENANCE, WIDTH, match_words=True)
    document, one = make_document(), maps(load_scorer(folder, PROVENANCE))
    other_T = document.tokens.copy()
    other_T[160:] = other_T[0]
    other = dataclasses.replace(document, document_id="other", tokens=other_T)
    assert one.head_map(document, TREE, 0, 160, "key", 0) == one.head_map(other, TREE, 0, 160, "key", 0)


def test_balanced_scores_have_masses_of_one_size(scorer):
    model, document = tiny_model(), make_document()
    tree = embed_document(model, MeanGistNet(), document, TREE)
    lod_map = recency_map_within(TREE, 0, 120, BUDGET, TAIL)
    scores_N = scores(dataclasses.replace(scorer, balances=True), lod_map, tree)
    level_N = lod_map.entries.level_N
    expansion = 3 * scores_N[level_N > 0].clip(min=0).sum()
    collapse = 0.75 * -scores_N[level_N < 2].clip(max=0).sum()
    assert expansion == pytest.approx(collapse, abs=1e-5)


def test_values_of_detail_are_priced_for_the_budget(value_scorer):
    document = make_document()
    one = maps(value_scorer).head_map(document, TREE, 0, 160, "key", 0)
    assert one.num_entries <= BUDGET
    assert not one.levels[-TAIL // 4 :].any()
    tree = embed_document(tiny_model(), MeanGistNet(), document, TREE)
    lod_map = recency_map_within(TREE, 0, 120, BUDGET, TAIL)
    roomy = scores(value_scorer, lod_map, tree, BUDGET + 60)
    tight = scores(value_scorer, lod_map, tree, BUDGET - 20)
    np.testing.assert_allclose(roomy - tight, (roomy - tight)[0], atol=1e-6)
    assert roomy[0] > tight[0]
    assert not value_scorer.balances


def test_the_map_it_arrives_at_keeps_budget_and_tail_and_depends_on_the_key_alone(scorer):
    free, document = maps(scorer, temperature=1.0), make_document()
    one = free.head_map(document, TREE, 0, 160, "key", 0)
    assert (one.start, one.cursor) == (0, 160)
    assert one.num_entries <= BUDGET
    assert not one.levels[-TAIL // 4 :].any()
    assert free.head_map(document, TREE, 0, 160, "key", 0) == one
    others = {free.head_map(document, TREE, 0, 160, "key", number) for number in range(1, 8)}
    assert len(others | {one}) > 3
    assert one != recency_map_within(TREE, 0, 160, BUDGET, TAIL)


def test_the_map_it_arrives_at_is_that_of_a_loop_written_by_hand(scorer):
    document, rules = make_document(), AllocatorConfig(temperature=1.0)
    tree = embed_document(tiny_model(), MeanGistNet(), document, TREE)
    lod_map, recent = recency_map_within(TREE, 0, 136, BUDGET, TAIL), NOTHING_RECENT
    for step, cursor in enumerate((140, 144, 148, 152, 156, 160)):
        lod_map = lod_map.extended(cursor)
        scores_N = scores(scorer, lod_map, tree)
        generator = generator_for("allocator", step, "key", 3)
        candidates = candidates_of(lod_map, TAIL, scores_N)
        done = allocate(lod_map, candidates, BUDGET, rules, recent, generator)
        lod_map, recent = done.lod_map, done.recent
    assert maps(scorer, temperature=1.0).head_map(document, TREE, 0, 160, "key", 3) == lod_map


def test_without_noise_the_key_does_not_matter(scorer):
    document = make_document()
    assert maps(scorer).head_map(document, TREE, 0, 160, 1) == maps(scorer).head_map(
        document, TREE, 0, 160, 2
    )


def test_its_trajectories_have_one_cursor_and_its_name(scorer):
    config = small_config(
        policies=("lensnet",), lensnet_checkpoint="lens", train_wc_length=BUDGET, trajectories_per_document=2
    )
    planned = list(plan_document(make_document(), config, PROVENANCE, maps(scorer)))
    assert {one.policy for one in planned} == {"lensnet"}
    assert {len(one.trajectory.cursors) for one in planned} == {1}
    assert all(one.trajectory.head.num_entries <= BUDGET for one in planned)


def test_a_calibration_holds_for_one_checkpoint_and_its_refocus_settings(scorer, tmp_path):
    config = small_config(policies=("lensnet",), lensnet_checkpoint="lens", estimator="windowed")
    folder = save_random_lensnet(tmp_path / "other", PROVENANCE, WIDTH, seed=1)

    def identity(**leads: MapMaker) -> str:
        return calibration_id(make_plan([make_document()], config, PROVENANCE, **leads), config)

    ways = [
        maps(scorer),
        maps(load_scorer(folder, PROVENANCE)),
        maps(dataclasses.replace(scorer, balances=True)),
        maps(scorer, temperature=1.0),
    ]
    assert len({identity(lensnet=way) for way in ways}) == len(ways)
    moved = save_random_lensnet(tmp_path / "moved", PROVENANCE, WIDTH)
    assert identity(lensnet=maps(load_scorer(moved, PROVENANCE))) == identity(lensnet=ways[0])


def test_a_lensnet_policy_needs_a_checkpoint():
    with pytest.raises(ConfigError, match="lensnet_checkpoint"):
        small_config(policies=("recency", "lensnet"))


@pytest.mark.parametrize(
    ("change", "what"),
    [({"model_hash": "another"}, "base model"), ({"gist_hash": "another"}, "GistNet")],
)
def test_a_checkpoint_for_something_else_is_refused(tmp_path, change, what):
    folder = save_random_lensnet(tmp_path / "lens", PROVENANCE, WIDTH)
    with pytest.raises(InputError, match=f"another {what}"):
        load_scorer(folder, dataclasses.replace(PROVENANCE, **change))


def test_a_checkpoint_of_a_mixture_makes_maps_for_each_of_its_members(tmp_path):
    mixture = dataclasses.replace(PROVENANCE, gist_hash="others+gists")
    folder = save_random_lensnet(tmp_path / "lens", mixture, WIDTH)
    assert load_scorer(folder, PROVENANCE).checkpoint_hash
    with pytest.raises(InputError, match=r"another GistNet than model\.name, gists\.source and tree say"):
        load_scorer(folder, dataclasses.replace(PROVENANCE, gist_hash="mean"))


def test_the_most_detailed_recency_map_within_a_budget():
    for budget in range(34, 170, 3):
        lod_map = recency_map_within(TREE, 0, 160, budget, TAIL)
        assert lod_map.num_entries <= budget
        assert not lod_map.levels[-TAIL // 4 :].any()
        # One more block of tokens, or one more coarse node in finer pieces, would not fit.
        assert lod_map.num_entries > budget - 3 - (2 in lod_map.levels) * 3 or not lod_map.levels.any()
    assert recency_map_within(TREE, 0, 160, 160, TAIL) == LODMap.of_tokens(TREE, 0, 160)
    with pytest.raises(InputError, match="at their coarsest"):
        recency_map_within(TREE, 0, 160, 10, TAIL)


def test_scores_leave_the_network_s_mode_alone(scorer):
    tree = embed_document(tiny_model(), MeanGistNet(), make_document(), TREE)
    scorer.scorer.network.train()
    scores(scorer, LODMap.of_tokens(TREE, 0, 40), tree)
    assert scorer.scorer.network.training
    assert all(isinstance(level, torch.Tensor) for level in tree.embeddings)


@pytest.mark.parametrize("target", ["priced", "value"])
def test_gists_of_several_positions_count_as_such_and_are_no_plain_tree_s(tmp_path, target):
    provenance = dataclasses.replace(
        PROVENANCE, gist_hash="kept-2", semantics="kept", gist_positions=2, max_level=2
    )
    scorer = load_scorer(save_random_lensnet(tmp_path / "lens", provenance, WIDTH, target=target), provenance)
    document = make_document()
    config = OnPolicyConfig(BUDGET, TAIL, 6, AllocatorConfig())
    made = OnPolicyMaps(scorer, tiny_model(), KeptGists(2), config)
    one = made.head_map(document, provenance.tree, 0, 160, "key", 0)
    assert one.num_entries < one.num_positions <= BUDGET
    with pytest.raises(InputError, match="with gists of 2 positions, the context has K = 4 up to level 2"):
        made.head_map(document, TREE, 0, 160, "key", 0)
