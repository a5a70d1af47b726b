"""Plans: where cursors and windows lie, and that a part's id is made of all that determines its labels."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mctrace.collect.config import CollectConfig
from mctrace.collect.planning import part_ids
from mctrace.collect.planning.document_plan import place_cursors, plan_document, plan_trajectory, window_start
from mctrace.collect.planning.edits import action_edit
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.work_units import (
    LabelledTrajectory,
    PlannedTrajectory,
    PreferenceVariant,
    WorkUnit,
)
from mctrace.context.actions import is_legal_at
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import ConfigError
from tests.collect.making import PROVENANCE, TREE, make_document, small_config
from tests.context.strategies import light

LEVELS = (2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0)


def plan(provenance: Provenance = PROVENANCE, num_tokens: int = 400, **settings: object):
    return list(plan_document(make_document(num_tokens), small_config(**settings), provenance))


def plan_one(
    *,
    document_id: str = "document",
    policy: str = "recency",
    tree: TreeShape = TREE,
    start: int = 16,
    levels: tuple[int, ...] = LEVELS,
    later_cursors: tuple[int, ...] = (4, 11),
    provenance: Provenance = PROVENANCE,
    **settings: object,
) -> LabelledTrajectory:
    """The plan of one trajectory; every argument is something its labels depend on."""
    config = small_config(**settings)
    cursor = start + len(levels) * tree.block_size
    head = LODMap(tree, start, cursor, np.array(levels, dtype=np.uint8))
    trajectory = Trajectory(head, (cursor, *(cursor + more for more in later_cursors)), config.horizon)
    shaped = replace(provenance, block_size=tree.block_size, max_level=tree.max_level)
    document = replace(make_document(trajectory.end), document_id=document_id)
    planned = next(plan_trajectory(document, policy, trajectory, config, shaped))
    assert isinstance(planned, LabelledTrajectory)
    return planned


def test_the_same_inputs_give_the_same_plan():
    settings = {"trajectories_per_document": 6, "max_actions": 5, "num_random_variants": 2}
    one, again = plan(**settings), plan(**settings)
    assert [planned.part_id for planned in one] == [planned.part_id for planned in again]
    assert one == again
    assert plan_one() == plan_one()


CHANGES: dict[str, dict[str, object]] = {
    "document": {"document_id": "another"},
    "start": {"start": 32},
    "levels": {"levels": (*LEVELS[:9], 1, *LEVELS[10:])},
    "cursors": {"later_cursors": (4, 12)},
    "number of cursors": {"later_cursors": (4,)},
    "horizon": {"horizon": 17},
    "protected tail": {"protected_tail": 9},
    "fewer actions": {"max_actions": 6},
    "even fewer actions": {"max_actions": 5},
    "other actions": {"max_actions": 5, "seed": 1},
    "depth of the tree": {"tree": TreeShape(4, 3)},
    "model": {"provenance": replace(PROVENANCE, model_hash="another")},
    "tokenizer": {"provenance": replace(PROVENANCE, tokenizer_hash="another")},
    "gists": {"provenance": replace(PROVENANCE, gist_hash="another")},
    "dtype": {"provenance": replace(PROVENANCE, dtype="bfloat16")},
}


def test_the_part_id_changes_with_everything_a_label_depends_on():
    ids = {name: plan_one(**change).part_id for name, change in CHANGES.items()}
    ids["nothing"] = plan_one().part_id
    assert len(set(ids.values())) == len(ids)


def test_block_size_changes_the_part_id_even_where_the_levels_look_alike():
    flat = {"levels": (0, 0, 0, 0), "later_cursors": ()}
    four = plan_one(start=0, tree=TreeShape(4, 1), **flat)
    two = plan_one(start=0, tree=TreeShape(2, 1), levels=(0,) * 8, later_cursors=())
    assert four.trajectory.cursors == two.trajectory.cursors
    assert four.part_id != two.part_id


def test_a_new_evaluator_changes_every_part_id(monkeypatch):
    before = plan_one().part_id
    monkeypatch.setattr(part_ids, "EVALUATOR_VERSION", part_ids.EVALUATOR_VERSION + 1)
    assert plan_one().part_id != before


def test_what_labels_do_not_depend_on_leaves_the_part_id_alone():
    """The seed and the policy's settings matter only through the map and the actions they led to."""
    assert plan_one(seed=1).part_id == plan_one().part_id
    assert plan_one(window=64, train_wc_length=32).part_id == plan_one().part_id


def test_all_legal_actions_are_planned_unless_there_are_too_many():
    everything, some = plan_one(), plan_one(max_actions=5)
    legal = everything.trajectory.legal_actions(8)
    assert [sampled.action for sampled in everything.actions] == legal
    assert everything.num_legal_actions == some.num_legal_actions == len(legal)
    assert len(some.actions) == 5
    assert {sampled.action for sampled in some.actions} < set(legal)
    strata = {(action.kind, action.node.level) for action in legal}
    assert {(s.action.kind, s.action.node.level) for s in some.actions} == strata
    assert all(0 < sampled.inclusion_probability <= 1 for sampled in some.actions)


def test_the_protected_tail_reaches_the_actions():
    last = max(s.action.node.index for s in plan_one(protected_tail=0).actions if s.action.node.level == 1)
    kept = max(s.action.node.index for s in plan_one(protected_tail=20).actions if s.action.node.level == 1)
    assert last - kept == 5


def test_policies_take_turns():
    policies = ("recency", "lod0", "random")
    planned = plan(trajectories_per_document=5, policies=policies)
    first = policies.index(planned[0].policy)
    assert [p.policy for p in planned] == [policies[(first + i) % 3] for i in range(5)]
    for p in planned:
        levels = set(p.trajectory.head.levels.tolist())
        assert (levels == {0}) == (p.policy == "lod0")


def test_every_policy_occurs_even_with_one_trajectory_a_document():
    config = small_config(trajectories_per_document=1, policies=("recency", "lod0", "random"))
    plans = [plan_document(make_document(seed=seed), config, PROVENANCE) for seed in range(60)]
    counts = Counter(planned.policy for one in plans for planned in one)
    assert sum(counts.values()) == 60
    assert all(counts[policy] > 8 for policy in ("recency", "lod0", "random"))


def test_each_trajectory_has_its_own_place():
    planned = plan(num_tokens=2000, trajectories_per_document=10)
    assert len({p.trajectory.first_cursor for p in planned}) > 5
    assert len({p.part_id for p in planned}) == 10


def test_another_seed_gives_another_plan():
    assert {p.part_id for p in plan(num_tokens=2000)}.isdisjoint(
        p.part_id for p in plan(num_tokens=2000, seed=1)
    )


@pytest.mark.parametrize("num_random_variants", [0, 4])
def test_a_plan_names_each_part_once(num_random_variants):
    """In a document with room for one cursor only, every trajectory of a fixed shape is the same one."""
    planned = plan(
        num_tokens=12 + 16 + 8,
        trajectories_per_document=6,
        policies=("recency",),
        num_random_variants=num_random_variants,
    )
    assert len(planned) == len({p.part_id for p in planned}) > 0


def test_windows_reach_back_as_far_as_their_policy_sets():
    for p in plan(num_tokens=2000, trajectories_per_document=12, policies=("recency", "lod0", "random")):
        length = p.trajectory.first_cursor - p.trajectory.head.start
        assert length == (64 if p.policy == "lod0" else 128)
        assert p.trajectory.num_positions == length + 8 + 16


@pytest.mark.parametrize(
    ("cursor", "window", "expected"), [(64, 128, 0), (64, 64, 0), (64, 63, 4), (64, 60, 4), (66, 60, 8)]
)
def test_a_window_starts_at_the_first_block_within_it(cursor, window, expected):
    assert window_start(cursor, window, TREE) == expected


@pytest.mark.parametrize(("policy", "key"), [("recency", "window"), ("lod0", "lod0_window")])
def test_a_window_narrower_than_a_block_is_refused_by_its_key(policy, key):
    with pytest.raises(ConfigError, match=rf"collect\.{key}"):
        plan(policies=(policy,), **{key: 2})


def test_a_negative_number_of_recent_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"collect\.recency_level_tokens"):
        small_config(recency_level_tokens=(16, -8))


@pytest.mark.parametrize("policy", ["recency", "random", "lod0"])
def test_every_policy_shows_the_protected_tail_as_tokens(policy):
    settings = {"recency_level_tokens": (4, 8), "protected_tail": 40, "policies": (policy,)}
    for p in plan(num_tokens=2000, trajectories_per_document=8, **settings):
        assert not p.trajectory.head.levels[-10:].any()


@light
@given(st.integers(1, 600), st.integers(0, 20), st.data())
def test_cursors_lie_within_the_document_and_behind_them_a_window_where_there_is_room(
    num_tokens, number, data
):
    config = small_config(
        horizon=data.draw(st.integers(1, 60)),
        cursors_per_trajectory=data.draw(st.integers(1, 5)),
        cursor_stride=data.draw(st.integers(1, 40)),
        window=data.draw(st.integers(4, 300)),
        protected_tail=data.draw(st.integers(0, 60)),
        last_tokens=data.draw(st.none() | st.integers(1, 600)),
    )
    spread = (config.cursors_per_trajectory - 1) * config.cursor_stride
    latest = (num_tokens - config.horizon - spread) // 4 * 4
    cursors = place_cursors(make_document(num_tokens), config, TREE, number)
    if cursors is None:
        assert latest < config.protected_tail + 4, "a snapshot would have fitted"
        return
    assert cursors[0] % 4 == 0
    assert np.diff(cursors).tolist() == [config.cursor_stride] * (config.cursors_per_trajectory - 1)
    assert cursors[-1] + config.horizon <= num_tokens
    assert cursors[0] >= config.protected_tail + 4
    assert cursors[0] >= min(config.window, latest)
    if config.last_tokens is not None:
        assert cursors[0] >= min(num_tokens - config.last_tokens, latest)


def test_with_last_tokens_every_cursor_is_among_them_and_all_such_places_are_taken():
    config = small_config(window=16, protected_tail=4, last_tokens=40)
    firsts = {place_cursors(make_document(400), config, TREE, number)[0] for number in range(200)}
    assert firsts == set(range(400 - 40, 400 - 16 - 8 + 1, 4))


def test_every_place_a_cursor_could_have_is_taken_by_some_trajectory():
    config, document = small_config(window=16, protected_tail=4), make_document(80)
    firsts = {place_cursors(document, config, TREE, number)[0] for number in range(200)}
    assert firsts == set(range(16, 80 - 16 - 8 + 1, 4))


@pytest.mark.parametrize("num_tokens", [1, 16, 24, 35])
def test_a_document_too_short_for_a_snapshot_gives_nothing(num_tokens):
    assert plan(num_tokens=num_tokens, num_random_variants=2) == []


def test_the_shortest_document_with_a_snapshot_has_one_block_before_its_protected_tail():
    planned = plan(num_tokens=8 + 4 + 8 + 16, policies=("lod0",))
    assert planned[0].trajectory.cursors == (12, 16, 20)
    assert planned[0].num_legal_actions == 3


def variants_of(provenance: Provenance = PROVENANCE, **settings: object) -> list[PreferenceVariant]:
    settings = {"num_random_variants": 3, "trajectories_per_document": 1, **settings}
    return [p for p in plan(provenance, **settings) if isinstance(p, PreferenceVariant)]


def test_variants_are_compressions_of_one_window_with_the_same_cursors_and_no_actions():
    (trajectory, *_) = plan(num_random_variants=3, trajectories_per_document=1)
    baseline, *compressed = variants_of()
    assert baseline.policy == "variant_lod0"
    assert set(baseline.trajectory.head.levels.tolist()) == {0}
    assert [v.policy for v in compressed] == ["variant_random"] * 3
    assert len({v.trajectory.head for v in compressed}) == 3
    for v in (baseline, *compressed):
        assert v.effects == ()
        assert v.trajectory.cursors == trajectory.trajectory.cursors
        assert v.trajectory.head.start == baseline.trajectory.head.start
        assert v.variant_group == baseline.variant_group
    assert all(v.trajectory.head.num_entries <= 48 for v in compressed)


def test_a_plan_without_variants_has_labelled_trajectories_only():
    assert {type(p) for p in plan()} == {LabelledTrajectory}


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": replace(PROVENANCE, model_hash="another")},
        {"provenance": replace(PROVENANCE, gist_hash="another")},
        {"provenance": replace(PROVENANCE, dtype="bfloat16")},
        {"horizon": 15},
        {"protected_tail": 9},
    ],
    ids=["model", "gists", "dtype", "horizon", "protected tail"],
)
def test_a_variant_is_compared_with_a_baseline_of_its_own_run_only(change):
    """A store holds runs of several models; a group shared by two would mix their losses in the pairs."""
    one, other = variants_of(), variants_of(**change)
    assert one[0].trajectory.cursors[0] == other[0].trajectory.cursors[0]
    assert one[0].part_id != other[0].part_id
    assert one[0].variant_group != other[0].variant_group


@light
@given(st.data())
def test_the_plans_count_of_work_is_the_sum_over_its_passes(data):
    planned = plan_one(
        start=data.draw(st.sampled_from((0, 16, 64))), max_actions=data.draw(st.sampled_from((None, 4, 9)))
    )
    edits = [action_edit(planned.trajectory, sampled.action) for sampled in planned.actions]
    expected = baseline_pass(planned.trajectory).work
    for each in plan_passes(planned.trajectory, edits, None, 64):
        expected = expected + each.work
    assert planned.work(64) == expected
    num_baseline_values = baseline_pass(planned.trajectory).work.num_read
    assert planned.size(64).num_effect_values == expected.num_read - num_baseline_values


def test_the_default_configuration_plans_trajectories_of_a_long_document():
    provenance = replace(PROVENANCE, block_size=32, max_level=2)
    strata: set[tuple[str, int]] = set()
    for seed in range(4):
        planned = list(plan_document(make_document(9000, seed), CollectConfig(), provenance))
        assert {p.policy for p in planned} == {"recency", "random"}
        for p in planned:
            assert p.trajectory.first_cursor - p.trajectory.head.start == 4096
            assert p.trajectory.end <= 9000
            assert len(p.actions) == p.num_legal_actions > 50
            strata |= {(s.action.kind, s.action.node.level) for s in p.actions}
    assert strata == {(kind, level) for kind in ("expand", "collapse") for level in (1, 2)}


SIDE = {"drop_controls": True, "joint_edits": 2, "attention_mass": True}


def units_of(**settings: object) -> list[WorkUnit]:
    return list(plan_document(make_document(400), small_config(**settings), PROVENANCE))


@pytest.mark.parametrize("estimator", ["exact", "windowed"])
def test_asking_for_a_side_measurement_leaves_every_other_part_id_alone(estimator):
    plain = {u.part_id for u in units_of(estimator=estimator)}
    rich = units_of(estimator=estimator, **SIDE)
    assert {u.part_id for u in rich if u.kind == "trajectory"} == plain
    assert {u.kind for u in rich} == {"trajectory", "drops", "joints", "attention"}
    for key, unit in (("drop_controls", "drops"), ("joint_edits", "joints"), ("attention_mass", "attention")):
        alone = units_of(estimator=estimator, **{key: SIDE[key]})
        assert {u.part_id for u in alone if u.kind == unit} == {u.part_id for u in rich if u.kind == unit}
    assert len({u.part_id for u in rich}) == len(rich)


def test_side_measurements_come_after_the_trajectory_they_name_and_follow_it():
    seen: set[str] = set()
    for unit in units_of(**SIDE):
        if isinstance(unit, PlannedTrajectory):
            assert unit.trajectory_id == unit.part_id
            seen.add(unit.part_id)
        assert unit.trajectory_id in seen
    windowed = RunPlan({}, tuple(units_of(estimator="windowed", **SIDE)), PROVENANCE).exactly()
    exact = units_of(**SIDE)
    assert [u.part_id for u in windowed.units] == [u.part_id for u in exact]
    assert [u.trajectory_id for u in windowed.units] == [u.trajectory_id for u in exact]


def test_joint_edits_are_sets_that_the_first_cursor_may_take_together():
    joints = [u for u in units_of(joint_edits=6, joint_size=3, max_actions=None) if u.kind == "joints"]
    assert joints
    for unit in joints:
        for actions in unit.joints:
            spans = sorted(TREE.span(action.node) for action in actions)
            assert len(actions) == 3
            assert all(a_end <= b_first for (_, a_end), (b_first, _) in pairwise(spans))
            cursor = unit.trajectory.first_cursor
            assert all(is_legal_at(a, TREE, cursor, unit.labelled.protected_tail) for a in actions)
    assert not [u for u in units_of(joint_edits=6, joint_size=200) if u.kind == "joints"]


def test_counting_a_plan_keeps_numbers_and_no_edits():
    """A run plans many trajectories and measures one at a time; edits hold entries of whole contexts."""
    for planned in plan(joint_edits=3, drop_controls=True):
        before = len(pickle.dumps(planned))
        planned.size(256)
        assert len(pickle.dumps(planned)) - before < 500


# One trajectory: labels, drops, joints, attention, then two preference variants.
EXACT_IDS = ["67b3e3c4c8ae", "b4021e9bc18c", "8d1a81a0d25c", "584f856e95f4", "6ab57201490b", "c2fa9c2936e1"]
WINDOWED_IDS = [
    "f886ba067bef",
    "8e6d41a425d2",
    "1ae1e5423f49",
    "0c07f4c1cc9a",
    "6ab57201490b",
    "c2fa9c2936e1",
]


def test_part_ids_are_those_that_stores_hold_already():
    """An id that changes measures every store's trajectories again, without a word."""
    settings = {"num_random_variants": 1, "trajectories_per_document": 1, "max_actions": 5, **SIDE}
    windowed = {"estimator": "windowed", "estimator_window": 3, "audit_fraction": 0.4}
    assert [u.part_id[:12] for u in units_of(**settings)] == EXACT_IDS
    assert [u.part_id[:12] for u in units_of(**settings, **windowed)] == WINDOWED_IDS
