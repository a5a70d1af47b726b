"""Everything measured on a trajectory is what its name says: each effect, control, audit and joint edit."""

import pytest
import torch

from mctrace.collect.evaluator import Batching, DocumentTree
from mctrace.collect.measurement import audit_pairs, measure_noise, measure_planned
from mctrace.collect.naive import naive_delta_nll, naive_drop_delta_nll, naive_nll
from mctrace.collect.plan import plan_document
from mctrace.context.actions import apply_action
from mctrace.gists.gistnet import MeanGistNet, build_tree
from tests.collect.making import PROVENANCE, TREE, make_document, small_config
from tests.models import tiny_model

EVERYTHING = {"drop_controls": True, "joint_edits": 4, "joint_size": 3, "max_actions": 12}


def plan_one(**changes):
    document = make_document(400)
    planned = list(plan_document(document, small_config(**EVERYTHING, **changes), PROVENANCE))
    return document, next(p for p in planned if len(p.joints) > 1 and len(p.controls) > 3)


def measured(model, document, planned, batch_tokens=1000):
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    tree = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    return tree, measure_planned(model, tree, planned, Batching(batch_tokens))


def test_every_effect_and_control_is_the_naive_one_of_its_own_node():
    model = tiny_model()
    document, planned = plan_one()
    tree, measurement = measured(model, document, planned)
    horizon, snapshot = planned.trajectory.horizon, planned.trajectory.head
    kinds = set()
    for effect in measurement.effects:
        cursor = effect.edit.first_token
        at_cursor, node = snapshot.extended(cursor), effect.sampled.action.node
        if effect.kind == "drop":
            expected_H = naive_drop_delta_nll(model, tree, at_cursor, node, horizon)
        else:
            assert effect.kind == effect.sampled.action.kind
            expected_H = naive_delta_nll(model, tree, at_cursor, effect.sampled.action, horizon)
        torch.testing.assert_close(effect.delta_nll_H[:horizon], expected_H, atol=1e-4, rtol=0)
        kinds.add(effect.kind)
    assert kinds == {"expand", "collapse", "drop"}
    drops = [effect for effect in measurement.effects if effect.kind == "drop"]
    assert len({effect.sampled.action.node for effect in drops}) == len(planned.controls) > 3


def test_every_joint_edit_is_the_naive_loss_after_all_of_its_actions():
    model = tiny_model()
    document, planned = plan_one()
    tree, measurement = measured(model, document, planned)
    horizon, snapshot = planned.trajectory.horizon, planned.trajectory.head
    before_H = naive_nll(model, tree, snapshot, horizon)
    found = []
    for actions, delta_nll_H in zip(planned.joints, measurement.joints, strict=True):
        edited = snapshot
        for action in actions:
            edited = apply_action(edited, action)
        expected_H = naive_nll(model, tree, edited, horizon) - before_H
        torch.testing.assert_close(delta_nll_H[:horizon], expected_H, atol=1e-4, rtol=0)
        found.append(float(delta_nll_H.mean()))
    assert len(set(found)) > 1


def test_what_ran_is_what_was_planned():
    document, planned = plan_one(estimator="windowed", estimator_window=3, audit_fraction=0.3)
    _, measurement = measured(tiny_model(), document, planned, 200)
    assert measurement.work == planned.work(200)
    assert len(measurement.effects) == planned.num_effects
    num_values = sum(len(effect.delta_nll_H) for effect in measurement.effects)
    assert num_values + sum(map(len, measurement.joints)) == planned.num_effect_values


def test_a_windowed_trajectory_keeps_exact_twins_of_what_is_compared_with_exact_numbers():
    document, planned = plan_one(estimator="windowed", estimator_window=3, audit_fraction=0.2)
    _, exact = plan_one()
    model = tiny_model()
    _, measurement = measured(model, document, planned)
    _, expected = measured(model, document, exact)
    key = {(e.kind, e.sampled.action): e.delta_nll_H for e in expected.effects}
    twins = [e for e in measurement.effects if e.estimator_window is None]
    for effect in twins:
        torch.testing.assert_close(
            effect.delta_nll_H, key[effect.kind, effect.sampled.action], atol=1e-5, rtol=0
        )
    audited = {e.sampled.action for e in twins if e.kind != "drop"}
    assert {action for actions in planned.joints for action in actions} <= audited
    assert {e.sampled.action for e in twins if e.kind == "drop"} == audited & {
        planned.actions[i].action for i in planned.controls
    }
    pairs = audit_pairs(planned, measurement)
    assert len(pairs) == len(audited) == len(planned.audited)
    assert any(pair.exact != pair.windowed for pair in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_floor_is_small_and_is_measured_in_two_batch_compositions(dtype):
    model = tiny_model()
    model.network.to(dtype)
    document, planned = plan_one()
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    tree = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    floor = measure_noise(model, tree, planned, Batching(64))
    low, high = (0, 1e-5) if dtype == torch.float32 else (1e-4, 0.2)
    assert low <= max(floor.no_op, floor.regrouped) < high


def test_without_a_finite_loss_there_is_no_noise_floor():
    model = tiny_model()
    document, planned = plan_one()
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    embeddings = [level * float("nan") for level in build_tree(MeanGistNet(), model.embed(tokens_T), TREE)]
    assert measure_noise(model, DocumentTree(tokens_T, embeddings), planned, Batching(64)) is None
