"""Planned counts equal the work the base model receives, as counted by a spy around the model."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit, drop_control, droppable_nodes, joint_edit, no_edit
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.context.actions import Action, apply_action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import LegalityError
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.collect.making import TREE
from tests.context.strategies import legal_maps, light, trees
from tests.models import VOCABULARY, tiny_model

HEAD = LODMap(TREE, 16, 80, np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=np.uint8))
TRAJECTORY = Trajectory(HEAD, (80, 84, 91), horizon=12)
EVERYTHING_TOGETHER = 10**6


@dataclass
class Spy:
    """A frozen model that counts what passes through another one."""

    model: object
    seen: list[Work] = field(default_factory=list)

    @property
    def embedding_dim(self) -> int:
        return self.model.embedding_dim

    @property
    def max_positions(self) -> int:
        return self.model.max_positions

    def embed(self, tokens_T):
        return self.model.embed(tokens_T)

    def token_nll(self, embeddings_BLd, position_BL, targets_H, plans):
        num_rows, length, _ = embeddings_BLd.shape
        pairs = 0
        for i in range(num_rows):
            plan = plans[i % len(plans)]
            shared = plan.prefix.end - plan.prefix.first if plan.prefix else 0
            kept = plan.kept.end - plan.kept.first if plan.kept else 0
            pairs += sum(shared + own + 1 + (kept if own >= plan.num_before else 0) for own in range(length))
        self.seen.append(Work(num_rows * length, num_rows * len(targets_H), pairs))
        return self.model.token_nll(embeddings_BLd, position_BL, targets_H, plans)


def make_document(model) -> DocumentTree:
    tokens_T = torch.randint(0, VOCABULARY, (160,), generator=torch.Generator().manual_seed(1))
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))


@pytest.mark.parametrize("window", [None, 0, 5, 1000])
@pytest.mark.parametrize("batch_tokens", [1, 60, EVERYTHING_TOGETHER])
def test_the_counted_work_is_what_the_model_is_given(window, batch_tokens):
    spy = Spy(tiny_model())
    document, actions = make_document(spy.model), TRAJECTORY.legal_actions(8)
    edits = [action_edit(TRAJECTORY, action) for action in actions]
    nodes = droppable_nodes(TRAJECTORY, actions)
    edits += [action_edit(TRAJECTORY, drop_control(TRAJECTORY, node)) for node in nodes]
    edits.append(joint_edit(TRAJECTORY, [Action("expand", Node(1, 14)), Action("collapse", Node(1, 20))]))
    edits.append(no_edit(TRAJECTORY, 20))
    baseline = measure_baseline(spy, document, TRAJECTORY)
    measured = measure_edits(
        spy, document, TRAJECTORY, edits, baseline, Batching(batch_tokens), window=window
    )

    passes = plan_passes(TRAJECTORY, edits, window, batch_tokens)
    assert spy.seen == [baseline_pass(TRAJECTORY).work] + [p.work for p in passes]
    assert measured.work == sum((p.work for p in passes), start=Work())
    assert sorted(i for p in passes for i in p.members) == list(range(len(edits)))
    assert [len(delta_H) for delta_H in measured.deltas] == [TRAJECTORY.end - e.first_token for e in edits]


def test_a_batch_holds_no_more_than_it_may_and_little_that_no_edit_needs():
    trajectory = Trajectory(LODMap.of_tokens(TreeShape(4, 2), 0, 256), (256, 260), horizon=8)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(0)]
    together = plan_passes(trajectory, edits, None, 1000)
    assert any(len(p.rows) > 2 for p in together)
    assert all(p.num_entries <= 1000 or len(p.rows) == 1 for p in together)
    assert all(p.num_needed >= 0.9 * p.num_entries for p in together)
    alone = plan_passes(trajectory, edits, None, 1)
    assert len(alone) == len(edits)
    assert sum(p.num_entries for p in alone) == sum(p.num_needed for p in together)


def test_the_baselines_work_by_hand():
    # 1 level-2 gist, 6 level-1 gists, 6 blocks of tokens, then 23 tokens to the end; the last does not run.
    assert HEAD.num_entries == 1 + 6 + 24
    work = baseline_pass(TRAJECTORY).work
    assert work == Work(num_recomputed=31 + 22, num_read=11 + 12, num_pairs=53 * 54 // 2)


def one_pass(action: Action, window: int | None = None):
    (planned,) = plan_passes(TRAJECTORY, [action_edit(TRAJECTORY, action)], window, 1)
    return planned


def test_the_work_of_an_expand_and_of_a_collapse_by_hand():
    expand = one_pass(Action("expand", Node(1, 14)))  # after 1 + 4 + 1 + 4 entries
    assert (expand.rows[0].crop, expand.first_read, expand.num_read) == (10, 30, 23)
    assert expand.work.num_recomputed == 53 + 3 - 10
    collapse = one_pass(Action("collapse", Node(1, 20)))  # the first block of the tail
    assert (collapse.rows[0].crop, collapse.num_read) == (31, 103 - 84)
    assert collapse.work == Work(22 - 3, 103 - 84, 19 * 31 + 19 * 20 // 2)


def test_the_work_of_a_windowed_expand_by_hand():
    windowed = one_pass(Action("expand", Node(1, 14)), window=5)
    (row,) = windowed.rows
    # Its 4 children, 5 entries more, then from the entry before the first cursor to the end.
    assert (row.crop, row.kept_first, row.kept_end) == (10, 16, 30)
    own = 4 + 5 + 23
    assert windowed.work == Work(own, 23, own * 10 + own * (own + 1) // 2 + 23 * 14)


def test_works_add_up():
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)


@light
@given(legal_maps(trees(block_sizes=(2, 3, 4))))
def test_a_pass_runs_from_the_edit_on_and_reads_from_the_entry_before_its_first_token(head):
    trajectory = Trajectory(head, (head.cursor, head.cursor + 5), horizon=3)
    before = trajectory.context.entries
    for action in trajectory.legal_actions(0):
        edit = action_edit(trajectory, action)
        (planned,) = plan_passes(trajectory, [edit], None, 1)
        (row,) = planned.rows
        edited = apply_action(trajectory.context, action).entries
        rebuilt = before.sliced(slice(0, edit.first_entry)).followed_by(
            edit.replacement, before.sliced(slice(edit.end_entry, None))
        )
        np.testing.assert_array_equal(rebuilt.level_N, edited.level_N)
        np.testing.assert_array_equal(rebuilt.first_token_N, edited.first_token_N)
        assert edited.first_token_N[row.crop] == head.tree.span(action.node)[0]
        first_read = planned.first_read + edit.length_change
        assert row.crop <= first_read
        assert edited.end_token_N[first_read] == edit.first_token
        assert planned.num_read == trajectory.end - edit.first_token
        assert planned.work.num_recomputed == len(edited) - 1 - row.crop


def test_an_action_that_the_map_does_not_allow_has_no_edit():
    with pytest.raises(LegalityError, match="cannot expand"):
        action_edit(TRAJECTORY, Action("expand", Node(1, 4)))


@pytest.mark.parametrize(
    ("node", "why"),
    [(Node(1, 5), "only partly"), (Node(1, 30), "not wholly inside"), (Node(1, 2), "not wholly inside")],
)
def test_a_span_that_cannot_be_left_out_is_refused(node, why):
    with pytest.raises(LegalityError, match=why):
        action_edit(TRAJECTORY, drop_control(TRAJECTORY, node))


def test_the_whole_context_cannot_be_left_out():
    trajectory = Trajectory(LODMap.of_tokens(TREE, 16, 32), (32,), 4)
    actions = trajectory.legal_actions(0)
    assert Action("collapse", Node(1, 4)) in actions
    with pytest.raises(LegalityError, match="nothing would be left"):
        action_edit(trajectory, drop_control(trajectory, Node(2, 1)))
    assert Node(2, 1) not in droppable_nodes(trajectory, [Action("expand", Node(2, 1)), *actions])


def test_one_pass_serves_all_cursors_at_a_fraction_of_the_entries():
    """About N/2 + R K + H entries an action instead of R (N + H)."""
    tree, num_cursors, horizon = TreeShape(32, 1), 8, 128
    head = LODMap.of_tokens(tree, 0, 1024)
    cursors = tuple(1024 + 32 * i for i in range(num_cursors))
    trajectory = Trajectory(head, cursors, horizon)
    actions = [a for a in trajectory.legal_actions(0) if tree.span(a.node)[1] <= 1024]
    edits = [action_edit(trajectory, action) for action in actions]
    passes = plan_passes(trajectory, edits, None, 1)
    recomputed = np.mean([p.work.num_recomputed for p in passes])
    assert recomputed == pytest.approx(1024 / 2 + 32 * num_cursors + horizon, rel=0.1)
    assert num_cursors * (1024 + horizon) / recomputed > 10
