"""Labels of extracts, against whole passes over what is left of the text."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.measuring.unit_measurement import measure_noise, measure_unit
from mctrace.collect.planning.document_plan import plan_trajectory
from mctrace.context.actions import apply_action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import ABSENT, AnchoredTree
from mctrace.datasets.store.provenance import Provenance
from mctrace.gists.network.anchored_gists import ExtractedGists
from mctrace.gists.network.anchored_spans import InformativeRun, collapsed_spans, kept_tokens
from mctrace.gists.network.gistnet import build_tree
from tests.collect.making import make_document, small_config
from tests.models import tiny_model

K, M, HORIZON = 4, 2, 16
CURSORS = (48, 52, 56)
LEVELS = [1, 1, 1, 1, 2, 2, 2, 2, ABSENT, 0, 0, 0]
DOCUMENT = make_document(80)
TOKENS_T = torch.from_numpy(DOCUMENT.tokens.astype(np.int64))


def planned_unit(absence="tokens"):
    tree = AnchoredTree(K, 2, absence, M)
    head = LODMap(tree, 0, CURSORS[0], np.array(LEVELS, np.uint8))
    provenance = Provenance("model", "tokenizer", f"extract-{M}", "float32", K, 2, absence, gist_positions=M)
    trajectory = Trajectory(head, CURSORS, HORIZON)
    (unit,) = plan_trajectory(DOCUMENT, "recency", trajectory, small_config(), provenance)
    return unit


def losses_by_definition(model, lod_map, first_token, end):
    """Losses of [first_token, end) behind the tokens of the text that the map leaves."""
    text_T = TOKENS_T[:end]
    everything = torch.arange(len(text_T))
    logits_TV = model.logits(model.embed(text_T), everything, everything)
    nll_T = cross_entropy(logits_TV[:-1], text_T[1:], reduction="none")
    surprisal_T = np.concatenate([[0.0], nll_T.detach().numpy()]).astype(np.float32)
    left = set(kept_tokens(collapsed_spans(lod_map, surprisal_T, InformativeRun(M)), len(text_T)).tolist())
    for block in np.flatnonzero(lod_map.levels == ABSENT):
        left -= set(range(block * K, (block + 1) * K)) - {0}
    left_N = torch.tensor(sorted(left))
    read = [i for i, t in enumerate(left_N.tolist()) if t >= first_token]
    logits = model.logits(model.embed(text_T[left_N]), left_N, torch.tensor(read) - 1)
    return cross_entropy(logits, text_T[left_N[read]], reduction="none").detach()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_every_action_has_the_effect_that_whole_passes_give(architecture):
    model, gists, unit = tiny_model(architecture), ExtractedGists(M), planned_unit()
    trajectory = unit.trajectory
    document = DocumentTree(TOKENS_T, build_tree(gists, model.embed(TOKENS_T), trajectory.head.tree))
    found = measure_unit(model, document, unit, Batching(64), gists)
    before = losses_by_definition(model, trajectory.context, CURSORS[0], trajectory.end)
    torch.testing.assert_close(found.baseline.nll_H, before, atol=1e-4, rtol=1e-4)
    kinds = set()
    for effect in found.effects:
        action, first = effect.planned.sampled.action, effect.planned.edit.first_token
        edited = apply_action(trajectory.context, action)
        expected = losses_by_definition(model, edited, first, trajectory.end) - before[first - CURSORS[0] :]
        torch.testing.assert_close(effect.delta_nll_H, expected, atol=2e-4, rtol=1e-3)
        kinds.add((action.kind, action.node.level))
    assert {("expand", 2), ("collapse", 2), ("insert", 1), ("drop", 1)} <= kinds
    assert found.effects[0].planned is unit.effects[0]
    planned = unit.work(64)
    assert found.work.num_recomputed == pytest.approx(planned.num_recomputed, rel=0.1)


def test_nothing_but_the_order_of_arithmetic_changes_a_label_of_its_own_accord():
    model, gists, unit = tiny_model(), ExtractedGists(M), planned_unit()
    document = DocumentTree(TOKENS_T, build_tree(gists, model.embed(TOKENS_T), unit.trajectory.head.tree))
    floor = measure_noise(model, document, unit, Batching(64), gists)
    assert floor is not None
    assert floor.no_op < 1e-5
    assert floor.regrouped is None or floor.regrouped < 1e-5


def test_a_loss_that_is_not_finite_has_no_effects():
    model, gists, unit = tiny_model(), ExtractedGists(M), planned_unit()
    embeddings = build_tree(gists, model.embed(TOKENS_T), unit.trajectory.head.tree)
    broken = [torch.full_like(embeddings[0], torch.nan), *embeddings[1:]]
    found = measure_unit(model, DocumentTree(TOKENS_T, broken), unit, Batching(64), gists)
    assert not found.is_finite
    assert found.effects == ()
    assert dataclasses.replace(found, effects=()) == found
