"""The counts of a plan must be what the base model is really given: a spy counts at the model's door."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given

from mctrace.collect.evaluator import DocumentTree, measure_baseline, measure_effects
from mctrace.collect.passes import Work, action_pass, baseline_pass
from mctrace.context.actions import Action, apply_action
from mctrace.context.errors import LegalityError
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.gists.gistnet import MeanGistNet, build_tree
from tests.collect.making import TREE
from tests.context.strategies import legal_maps, light, trees
from tests.models import VOCABULARY, tiny_model

HEAD = LODMap(TREE, 16, 80, np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=np.uint8))
TRAJECTORY = Trajectory(HEAD, (80, 84, 91), horizon=12)


@dataclass
class Spy:
    """A frozen model that counts what passes through another one."""

    model: object
    seen: list[Work] = field(default_factory=list)
    _prefix_length: int = 0

    @property
    def embedding_dim(self) -> int:
        return self.model.embedding_dim

    @property
    def max_positions(self) -> int:
        return self.model.max_positions

    def embed(self, tokens_T):
        return self.model.embed(tokens_T)

    def crop(self, cache, num_entries):
        self._prefix_length = num_entries
        return self.model.crop(cache, num_entries)

    def logits(self, embeddings_ND, position_N, keep_H, prefix=None, *, keep_cache=True):
        before = self._prefix_length if prefix is not None else 0
        attended = [before + i + 1 for i in range(len(embeddings_ND))]
        logits_HV, cache = self.model.logits(embeddings_ND, position_N, keep_H, prefix, keep_cache=keep_cache)
        self.seen.append(Work(len(embeddings_ND), len(logits_HV), sum(attended)))
        return logits_HV, cache


def test_the_counted_work_is_what_the_model_is_given():
    model = tiny_model()
    tokens_T = torch.randint(0, VOCABULARY, (160,), generator=torch.Generator().manual_seed(1))
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
    actions = TRAJECTORY.legal_actions(8)
    spy = Spy(model)
    baseline = measure_baseline(spy, document, TRAJECTORY)
    effects = list(measure_effects(spy, document, TRAJECTORY, actions, baseline))

    expected = [baseline_pass(TRAJECTORY).work] + [action_pass(TRAJECTORY, a).work for a in actions]
    assert spy.seen == expected
    assert len({work.num_recomputed for work in expected}) > 10
    assert [len(effect.delta_nll_H) for effect in effects] == [work.num_read for work in expected[1:]]


def test_the_baselines_work_by_hand():
    # 1 level-2 gist, 6 level-1 gists, 6 blocks of tokens, then 23 tokens to the end; the last does not run.
    assert HEAD.num_entries == 1 + 6 + 24
    work = baseline_pass(TRAJECTORY).work
    assert work == Work(num_recomputed=31 + 22, num_read=11 + 12, num_pairs=53 * 54 // 2)


def test_the_work_of_an_expand_and_of_a_collapse_by_hand():
    expand = action_pass(TRAJECTORY, Action("expand", Node(1, 14)))  # after 1 + 4 + 1 + 4 entries
    assert (expand.crop, expand.first_read, expand.first_token) == (10, 33, 80)
    assert expand.work.num_recomputed == 53 + 3 - 10
    collapse = action_pass(TRAJECTORY, Action("collapse", Node(1, 20)))  # the first block of the tail
    assert (collapse.crop, collapse.first_read, collapse.first_token) == (31, 31, 84)
    assert collapse.work == Work(22 - 3, 103 - 84, 19 * 31 + 19 * 20 // 2)


def test_works_add_up():
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)


@light
@given(legal_maps(trees(block_sizes=(2, 3, 4))))
def test_a_pass_runs_from_the_edit_on_and_reads_from_the_entry_before_its_first_token(head):
    trajectory = Trajectory(head, (head.cursor, head.cursor + 5), horizon=3)
    before = baseline_pass(trajectory)
    assert (before.crop, before.first_token, before.end) == (0, head.cursor, head.cursor + 8)
    for action in trajectory.legal_actions(0):
        after = action_pass(trajectory, action)
        unchanged = [
            np.column_stack([e.level_N, e.index_N])[: after.crop] for e in (before.entries, after.entries)
        ]
        np.testing.assert_array_equal(*unchanged)
        assert after.entries.first_token_N[after.crop] == head.tree.span(action.node)[0]
        assert after.crop <= after.first_read < after.last_run
        assert after.entries.end_token_N[after.first_read] == after.first_token
        num_read = after.last_run - after.first_read
        assert after.work.num_read == num_read == after.end - after.first_token
        edited = apply_action(head.extended(trajectory.end), action)
        assert after.work.num_recomputed == edited.num_entries - 1 - after.crop


def test_an_action_that_the_map_does_not_allow_has_no_pass():
    with pytest.raises(LegalityError, match="cannot expand"):
        action_pass(TRAJECTORY, Action("expand", Node(1, 4)))


def test_one_pass_serves_all_cursors_at_a_fraction_of_the_entries():
    """DESIGN section 4: about N/2 + R K + H entries an action instead of R (N + H)."""
    tree, num_cursors, horizon = TreeShape(32, 1), 8, 128
    head = LODMap.of_tokens(tree, 0, 1024)
    cursors = tuple(1024 + 32 * i for i in range(num_cursors))
    trajectory = Trajectory(head, cursors, horizon)
    actions = [a for a in trajectory.legal_actions(0) if tree.span(a.node)[1] <= 1024]
    recomputed = np.mean([action_pass(trajectory, action).work.num_recomputed for action in actions])
    assert recomputed == pytest.approx(1024 / 2 + 32 * num_cursors + horizon, rel=0.1)
    assert num_cursors * (1024 + horizon) / recomputed > 10
