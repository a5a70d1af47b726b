"""Labels of contexts that stay as they were read, against one masked pass of everything by definition."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.masked_pass import linear_layers, masked_logits
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.measuring.kept_labels import measure_kept_edits
from mctrace.collect.measuring.kept_reading import read_kept
from mctrace.collect.planning.edits import action_edit, joint_edit, no_edit
from mctrace.context.actions import Action, apply_actions, is_legal_at
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import ABSENT, AnchoredTree, Node
from mctrace.errors import ModelError
from mctrace.gists.network.anchored_gists import KeptGists
from mctrace.gists.network.gistnet import build_tree
from mctrace.gists.network.key_value_gistnet import KeyValueGistConfig, KeyValueGistNet
from tests.models import VOCABULARY, tiny_model

K, TAIL, HORIZON = 4, 4, 6
START, CURSORS = 4, (48, 52, 56)
TOKENS_T = torch.randint(VOCABULARY, (CURSORS[-1] + HORIZON + 5,), generator=torch.Generator().manual_seed(0))
LEVELS = [1, 0, ABSENT, 2, 2, 2, 2, 1, 1, 0, 0]  # blocks from token 4 on


def adapters(model, seed=3):
    torch.manual_seed(seed)
    network = KeyValueGistNet(KeyValueGistConfig(K, linear_layers(model.network), rank=2))
    for up in network.up.values():
        torch.nn.init.normal_(up, std=0.5)
    return network.requires_grad_(False)


def trajectory_with(num_anchors, levels=LEVELS, cursors=CURSORS, absence="tokens"):
    tree = AnchoredTree(K, 2, absence, num_anchors)
    return Trajectory(LODMap(tree, START, cursors[0], np.array(levels, np.uint8)), cursors, HORIZON)


def measure(model, gists, trajectory, edits, batch_tokens=64):
    embeddings_Td = model.embed(TOKENS_T)
    document = DocumentTree(TOKENS_T, build_tree(gists, embeddings_Td, trajectory.head.tree))
    batching = Batching(batch_tokens)
    reading = read_kept(model, gists, document, trajectory, edits, batching)
    return reading.baseline.nll_H, measure_kept_edits(model, document, edits, reading, batching).deltas


class ByDefinition:
    """Every token in one pass, and behind them each gist's span again with adapters at its anchors."""

    def __init__(self, model, gists, trajectory):
        self.model, self.gists, self.trajectory = model, gists, trajectory
        self.text_T = TOKENS_T[START : trajectory.end]
        self.num_head = trajectory.first_cursor - START
        causal_TT = torch.ones(len(self.text_T), len(self.text_T), dtype=torch.bool).tril()
        logits_TV = self._logits(causal_TT, self.text_T, torch.arange(len(self.text_T)), None)
        nll_T = cross_entropy(logits_TV[:-1], self.text_T[1:], reduction="none")
        self.surprisal_T = np.concatenate([[0.0], nll_T.numpy()]).astype(np.float32)

    def nll(self, edited=None, first_token=None):
        """NLL from the first cursor on; from `first_token` on tokens see the map `edited`."""
        context, T = self.trajectory.context, len(self.text_T)
        maps = [context] if edited is None else [context, edited]
        nodes = sorted({node for one in maps for node in self._gists(one, T)})
        copies = {node: T + sum(self._width(n) for n in nodes[:i]) for i, node in enumerate(nodes)}
        total = T + sum(map(self._width, nodes))
        visible = torch.zeros(total, total, dtype=torch.bool)
        places, changed = list(range(T)), []
        for t in range(T):
            if t < self.num_head:
                visible[t, : t + 1] = True
            else:
                is_edited = first_token is not None and t >= first_token - START
                shown = edited if is_edited else context
                until = (first_token - START) if is_edited else self.num_head
                visible[t, self._seen(shown, until, copies)] = True
                visible[t, until : t + 1] = True
                # Between the first cursor and the edit an edited map may hide tokens that were read.
        for node in nodes:
            first, end = (at - START for at in context.tree.span(node))
            for i in range(self._width(node)):
                row = copies[node] + i
                if end <= self.num_head:
                    visible[row, :first] = True
                else:
                    visible[row, self._seen(context, min(first, self.num_head), copies)] = True
                    visible[row, self.num_head : first] = True
                visible[row, copies[node] : row + 1] = True
                places.append(first + i)
            changed += [copies[node] + at - first for at in self._anchors(node)]
        tokens = self.text_T[places]
        by = self.gists.adapters
        changes = by.changes(torch.tensor(changed)) if by is not None else None
        logits = self._logits(visible, tokens, torch.tensor(places), changes)
        rows = torch.arange(self.num_head - 1, T - 1)
        return cross_entropy(logits[rows], self.text_T[rows + 1], reduction="none")

    def _logits(self, visible, tokens, position, changes):
        keep = torch.arange(len(tokens))
        return masked_logits(
            self.model.network, self.model.embed(tokens).clone(), position, visible, keep, changes
        ).detach()

    def _seen(self, shown, until, copies):
        """What tokens behind `until` see of those before it: tokens, copies of anchors, the first token."""
        found = [0] if until else []
        entries = shown.entries
        for level, index, first in zip(
            entries.level_N.tolist(), entries.index_N.tolist(), entries.first_token_N.tolist(), strict=True
        ):
            if first - START >= until:
                continue
            if level == 0:
                found.append(first - START)
            else:
                node = Node(level, index)
                begin = shown.tree.span(node)[0] - START
                found += [copies[node] + at - begin for at in self._anchors(node)]
        return found

    def _anchors(self, node):
        first, end = (at - START for at in self.trajectory.head.tree.span(node))
        others = sorted(range(first, end - 1), key=lambda t: (-self.surprisal_T[t], t))
        return sorted([*others[: self.gists.num_anchors - 1], end - 1])

    def _gists(self, one, T):
        entries = one.entries
        is_gist = entries.level_N > 0
        return {
            Node(a, b)
            for a, b in zip(entries.level_N[is_gist].tolist(), entries.index_N[is_gist].tolist(), strict=True)
        }

    def _width(self, node):
        return self.trajectory.head.tree.span_width(node.level)


@pytest.mark.parametrize("num_anchors", [1, 3])
@pytest.mark.parametrize("with_adapters", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox"])
def test_every_action_has_the_effect_that_one_masked_pass_gives(architecture, with_adapters, num_anchors):
    model = tiny_model(architecture)
    gists = KeptGists(num_anchors, adapters(model) if with_adapters else None)
    trajectory = trajectory_with(num_anchors)
    actions = trajectory.legal_actions(TAIL)
    edits = [action_edit(trajectory, action) for action in actions]
    nll_H, deltas = measure(model, gists, trajectory, edits)
    expected = ByDefinition(model, gists, trajectory)
    before_H = expected.nll()
    torch.testing.assert_close(nll_H, before_H, atol=1e-4, rtol=1e-4)
    assert {action.kind for action in actions} == {"expand", "collapse", "insert", "drop"}
    assert {action.node.level for action in actions} == {1, 2}
    assert {edit.first_token for edit in edits} == {48, 52}  # one block of the tail is old enough at the last
    for action, edit, delta_H in zip(actions, edits, deltas, strict=True):
        edited = apply_actions(trajectory.context, [action])
        after_H = expected.nll(edited, edit.first_token)
        assert delta_H[0] == 0
        torch.testing.assert_close(
            delta_H, (after_H - before_H)[edit.first_token - CURSORS[0] :], atol=2e-4, rtol=1e-3
        )
    assert max(float(delta_H.abs().max()) for delta_H in deltas) > 1e-2


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "cohere", "granite"])
def test_other_architectures_keep_to_the_definition(architecture):
    model, gists, trajectory = tiny_model(architecture), KeptGists(2), trajectory_with(2)
    actions = trajectory.legal_actions(TAIL)[::3]
    edits = [action_edit(trajectory, action) for action in actions]
    _, deltas = measure(model, gists, trajectory, edits)
    expected = ByDefinition(model, gists, trajectory)
    before_H = expected.nll()
    for action, edit, delta_H in zip(actions, edits, deltas, strict=True):
        after_H = expected.nll(apply_actions(trajectory.context, [action]), edit.first_token)
        found = (after_H - before_H)[edit.first_token - CURSORS[0] :]
        torch.testing.assert_close(delta_H, found, atol=2e-4, rtol=1e-3)


def test_an_action_and_its_opposite_cancel_and_batches_make_no_difference():
    model, gists = tiny_model(), KeptGists(2)
    there = trajectory_with(2, [0] * 11, (48,), "off")
    collapse = Action("collapse", Node(1, 3))
    back = dataclasses.replace(there, head=apply_actions(there.head, [collapse]))
    edits = [action_edit(there, action) for action in there.legal_actions(TAIL)]
    edits.append(no_edit(there, 5))
    _, alone = measure(model, gists, there, edits, batch_tokens=1)
    _, deltas = measure(model, gists, there, edits, batch_tokens=1000)
    _, opposite = measure(model, gists, back, [action_edit(back, Action("expand", Node(1, 3)))])
    (one,) = measure(model, gists, there, [action_edit(there, collapse)])[1]
    torch.testing.assert_close(opposite[0], -one, atol=1e-5, rtol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone, deltas, strict=True))
    assert deltas[-1].abs().max() < 1e-5
    assert one.abs().max() > 1e-3


def test_a_horizon_of_one_token_was_predicted_before_any_edit():
    model, gists = tiny_model(), KeptGists(1)
    trajectory = dataclasses.replace(trajectory_with(1, [0] * 11, (48,), "off"), horizon=1)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(TAIL)]
    nll_H, deltas = measure(model, gists, trajectory, edits)
    assert len(nll_H) == 1
    assert all(delta_H.tolist() == [0.0] for delta_H in deltas)


class OutOfMemory:
    """A model whose device holds no more than `room` entries of a pass."""

    def __init__(self, model, room):
        self._model, self._room, self.refused = model, room, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def _checked(self, run, embeddings_BLd, *arguments):
        if embeddings_BLd.shape[0] * embeddings_BLd.shape[1] > self._room:
            self.refused += 1
            raise torch.OutOfMemoryError("no room")
        return run(embeddings_BLd, *arguments)

    def token_nll(self, *arguments):
        return self._checked(self._model.token_nll, *arguments)

    def key_values(self, *arguments):
        return self._checked(self._model.key_values, *arguments)


def test_out_of_memory_halves_passes_and_goes_on():
    model, trajectory = tiny_model(), trajectory_with(2)
    gists = KeptGists(2, adapters(model))
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(TAIL)]
    # The text in full needs as much room, whatever is done about it.
    tight = OutOfMemory(model, room=trajectory.end - START)
    _, expected = measure(model, gists, trajectory, edits)
    _, found = measure(tight, gists, trajectory, edits, batch_tokens=10_000)
    assert tight.refused >= 2
    for found_H, expected_H in zip(found, expected, strict=True):
        torch.testing.assert_close(found_H, expected_H, atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match=r"out of memory on a whole context.*smaller"):
        measure(OutOfMemory(model, room=20), gists, trajectory, edits)


def test_a_joint_edit_is_the_map_after_all_of_its_actions():
    model, gists, trajectory = tiny_model(), KeptGists(2), trajectory_with(2)
    actions = [Action("expand", Node(1, 1)), Action("collapse", Node(1, 2))]
    assert all(is_legal_at(action, trajectory.head.tree, CURSORS[0], TAIL) for action in actions)
    edit = joint_edit(trajectory, actions)
    _, (delta_H,) = measure(model, gists, trajectory, [edit])
    expected = ByDefinition(model, gists, trajectory)
    after_H = expected.nll(apply_actions(trajectory.context, actions), edit.first_token)
    torch.testing.assert_close(delta_H, after_H - expected.nll(), atol=2e-4, rtol=1e-3)
