"""Measurement of units: each effect, control, audit and joint edit equals its naive definition."""

from dataclasses import replace

import pytest
import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll, naive_nll
from mctrace.collect.measuring.unit_measurement import audit_pairs, measure_noise, measure_unit
from mctrace.collect.planning.document_plan import plan_document
from mctrace.collect.planning.edits import drop_control
from mctrace.collect.planning.forward_passes import plan_passes
from mctrace.context.actions import ACTION_KINDS, apply_action
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.collect.making import PROVENANCE, TREE, make_document, small_config
from tests.models import tiny_model

EVERYTHING = {"drop_controls": True, "joint_edits": 4, "joint_size": 3, "attention_mass": True}


def plan_units(provenance=PROVENANCE, **changes):
    """A document and the units of its first trajectory that has several joint edits."""
    document = make_document(400)
    config = small_config(**{"max_actions": 12, **EVERYTHING, **changes})
    units = list(plan_document(document, config, provenance))
    wanted = next(u.trajectory_id for u in units if u.kind == "joints" and len(u.joints) > 1)
    return document, {u.kind: u for u in units if u.trajectory_id == wanted}


def measured(model, document, planned, batch_tokens=1000):
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    tree = DocumentTree(
        tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), planned.trajectory.head.tree)
    )
    return tree, measure_unit(model, tree, planned, Batching(batch_tokens))


@pytest.mark.parametrize("unit", ["trajectory", "drops"])
def test_every_effect_and_control_is_the_naive_one_of_its_own_node(unit):
    model = tiny_model()
    document, units = plan_units()
    planned = units[unit]
    tree, measurement = measured(model, document, planned)
    horizon, snapshot = planned.trajectory.horizon, planned.trajectory.head
    for effect in measurement.effects:
        cursor, sampled = effect.planned.edit.first_token, effect.planned.sampled
        at_cursor = snapshot.extended(cursor)
        if unit == "drops":
            assert effect.planned.kind == "drop"
            control = drop_control(planned.trajectory, sampled.action.node)
            expected_H = naive_delta_nll(model, tree, at_cursor, control, horizon)
        else:
            assert effect.planned.kind == sampled.action.kind
            expected_H = naive_delta_nll(model, tree, at_cursor, sampled.action, horizon)
        torch.testing.assert_close(effect.delta_nll_H[:horizon], expected_H, atol=1e-4, rtol=0)
    assert len({effect.planned.sampled.action for effect in measurement.effects}) > 8


def test_every_joint_edit_is_the_naive_loss_after_all_of_its_actions():
    model = tiny_model()
    document, units = plan_units()
    planned = units["joints"]
    tree, measurement = measured(model, document, planned)
    horizon, snapshot = planned.trajectory.horizon, planned.trajectory.head
    before_H = naive_nll(model, tree, snapshot, horizon)
    assert [joint.actions for joint in measurement.joints] == list(planned.joints)
    for joint in measurement.joints:
        edited, alone = snapshot, []
        for action in joint.actions:
            edited = apply_action(edited, action)
            alone.append(naive_delta_nll(model, tree, snapshot, action, horizon))
        expected_H = naive_nll(model, tree, edited, horizon) - before_H
        torch.testing.assert_close(joint.delta_nll_H[:horizon], expected_H, atol=1e-4, rtol=0)
        torch.testing.assert_close(joint.sum_of_singles_H[:horizon], sum(alone), atol=3e-4, rtol=0)
    assert len({float(joint.delta_nll_H.mean()) for joint in measurement.joints}) > 1
    assert measurement.effects == ()


AUDITED = {"audit_fraction": 0.3}
BY_ESTIMATOR = {
    "exact": {},
    "windowed": {"estimator": "windowed", "estimator_window": 3, **AUDITED},
    "gradient": {"estimator": "gradient", "gradient_segment": 5, **AUDITED},
}
ABSENT = {"max_detail": "absent", "actions": ACTION_KINDS}


@pytest.mark.parametrize("absence", ["off", "tokens", "gist"])
@pytest.mark.parametrize("estimator", BY_ESTIMATOR)
def test_the_work_that_ran_is_the_work_that_was_planned(estimator, absence):
    """Plans count from lengths alone; what is measured builds every edit."""
    provenance = replace(PROVENANCE, absence=absence)
    settings = {**BY_ESTIMATOR[estimator], **({} if absence == "off" else ABSENT)}
    document, units = plan_units(provenance, max_actions=None, **settings)
    kinds = {sampled.action.kind for sampled in units["trajectory"].actions}
    assert kinds >= ({"expand", "collapse"} if absence == "off" else {"insert", "drop", "collapse"})
    for kind, planned in units.items():
        _, measurement = measured(tiny_model(), document, planned, 200)
        assert measurement.work == planned.work(200), kind
        assert len(measurement.effects) == planned.size(200).num_effects, kind
        num_values = sum(len(effect.delta_nll_H) for effect in measurement.effects)
        num_values += sum(len(j.delta_nll_H) + len(j.sum_of_singles_H) for j in measurement.joints)
        assert num_values == planned.size(200).num_effect_values, kind
        assert (measurement.baseline.attention_mass_N is not None) == (kind == "attention")


@pytest.mark.parametrize("absence", ["off", "tokens"])
def test_a_screened_unit_is_planned_with_as_many_exact_passes_evenly_over_the_context(absence):
    """Which actions are drawn shows only once all are estimated."""
    provenance = replace(PROVENANCE, absence=absence)
    settings = {"drop_controls": False, **({} if absence == "off" else ABSENT)}
    _, units = plan_units(provenance, action_sampling="screened", max_actions=6, **settings)
    planned = units["trajectory"]
    all_estimated = replace(planned, screening=None)
    edits = [effect.edit for effect in all_estimated.effects]
    drawn = edits[:: -(-len(edits) // 6)]
    assert 0 < len(drawn) <= 6 < len(edits)
    expected = all_estimated.work(200)
    for each in plan_passes(planned.trajectory, drawn, None, 200):
        expected += each.work
    assert planned.work(200) == expected
    assert planned.size(200).num_effects == len(edits) + len(drawn)


@pytest.mark.parametrize("unit", ["trajectory", "drops"])
def test_an_audited_action_and_its_control_are_measured_both_ways(unit):
    document, units = plan_units(estimator="windowed", estimator_window=3, audit_fraction=0.4)
    _, exact_units = plan_units()
    model = tiny_model()
    planned, labelled = units[unit], units["trajectory"]
    _, measurement = measured(model, document, planned)
    _, expected = measured(model, document, exact_units[unit])
    exact = {e.planned.sampled.action: e.delta_nll_H for e in expected.effects}
    by_way = {True: {}, False: {}}
    for effect in measurement.effects:
        by_way[effect.planned.estimator.window is None][effect.planned.sampled.action] = effect.delta_nll_H
    audited = {labelled.actions[i].action for i in labelled.audited}
    assert by_way[False].keys() == exact.keys()
    assert by_way[True].keys() == audited & exact.keys()
    assert 0 < len(by_way[True]) < len(exact)
    for action, delta_nll_H in by_way[True].items():
        torch.testing.assert_close(delta_nll_H, exact[action], atol=1e-5, rtol=0)
    assert any((by_way[False][action] - exact[action]).abs().max() > 1e-3 for action in exact)
    pairs = audit_pairs(planned, measurement)
    assert len(pairs) == (len(audited) if unit == "trajectory" else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_floor_is_small_and_is_measured_in_two_batch_compositions(dtype):
    model = tiny_model()
    model.network.to(dtype)
    document, units = plan_units()
    planned = units["trajectory"]
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    tree = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    floor = measure_noise(model, tree, planned, Batching(64))
    low, high = (0, 1e-5) if dtype == torch.float32 else (1e-4, 0.2)
    assert low <= max(floor.no_op, floor.regrouped) < high


def test_without_a_finite_loss_there_is_no_noise_floor():
    model = tiny_model()
    document, units = plan_units()
    planned = units["trajectory"]
    tokens_T = torch.from_numpy(document.tokens.astype("int64"))
    embeddings = [level * float("nan") for level in build_tree(MeanGistNet(), model.embed(tokens_T), TREE)]
    assert measure_noise(model, DocumentTree(tokens_T, embeddings), planned, Batching(64)) is None
