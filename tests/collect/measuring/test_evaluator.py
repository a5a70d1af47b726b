"""Labels must equal the slow definition, whatever the architecture, action, level, position or cursor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.shared_attention import shared_attention
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll, naive_nll
from mctrace.collect.planning.edits import (
    Edit,
    action_edit,
    drop_control,
    droppable_nodes,
    joint_edit,
    no_edit,
)
from mctrace.collect.planning.map_policies import truncation_map
from mctrace.context.actions import Action, apply_action, is_legal_at
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import ABSENT, Node, TreeShape
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.models import CONFIGS, VOCABULARY, tiny_model

TREE = TreeShape(block_size=4, max_level=2)
HORIZON = 12


def make_document(model, num_tokens: int = 160, seed: int = 1) -> DocumentTree:
    generator = torch.Generator().manual_seed(seed)
    tokens_T = torch.randint(0, VOCABULARY, (num_tokens,), generator=generator)
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))


def mixed_trajectory() -> Trajectory:
    """Gists of both levels, tokens, and collapsible siblings at both levels; starts inside the document."""
    levels = np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=np.uint8)
    head = LODMap(TREE, 16, 16 + 4 * len(levels), levels)
    return Trajectory(head, cursors=(80, 84, 91), horizon=HORIZON)


PROTECTED_TAIL = 8


def measure(model, document, trajectory, edits, batch_tokens=1, window=None) -> list[torch.Tensor]:
    baseline = measure_baseline(model, document, trajectory)
    batching = Batching(batch_tokens)
    return list(measure_edits(model, document, trajectory, edits, baseline, batching, window=window).deltas)


def holed_trajectory() -> Trajectory:
    """Absent blocks first, between gists of both levels, among tokens, and before the first cursor."""
    levels = [A, 0, 2, 2, 2, 2, A, 1, A, A, A, A, 1, 0, 0, A, A, 0, A]
    head = LODMap(replace(TREE, absence="tokens"), 8, 84, np.array(levels, dtype=np.uint8))
    return Trajectory(head, cursors=(84, 88, 95), horizon=HORIZON)


A = ABSENT
KINDS = {
    mixed_trajectory: {("expand", 1), ("expand", 2), ("collapse", 1), ("collapse", 2)},
    holed_trajectory: {
        ("expand", 1), ("expand", 2), ("collapse", 1), ("insert", 1), ("drop", 1), ("drop", 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("make_trajectory", KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 10**6])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_label_and_control_equals_the_naive_evaluation_at_every_cursor(
    architecture, batch_tokens, make_trajectory
):
    model, trajectory = tiny_model(architecture), make_trajectory()
    document = make_document(model)
    actions = trajectory.legal_actions(PROTECTED_TAIL)
    assert {(action.kind, action.node.level) for action in actions} == KINDS[make_trajectory]
    controls = [drop_control(trajectory, node) for node in droppable_nodes(trajectory, actions)]
    edits = [action_edit(trajectory, action) for action in [*actions, *controls]]
    deltas = measure(model, document, trajectory, edits, batch_tokens)

    num_compared, largest = 0, 0.0
    for action, edit, delta_H in zip([*actions, *controls], edits, deltas, strict=True):
        largest = max(largest, float(delta_H.abs().max()))
        tail = 0 if action in controls else PROTECTED_TAIL
        for cursor in trajectory.cursors:
            if not is_legal_at(action, TREE, cursor, tail):
                continue
            snapshot = trajectory.head.extended(cursor)
            expected_H = naive_delta_nll(model, document, snapshot, action, HORIZON)
            first = cursor - edit.first_token
            torch.testing.assert_close(delta_H[first : first + HORIZON], expected_H, atol=1e-4, rtol=0)
            num_compared += 1
    assert num_compared > 2 * len(actions)
    assert largest > 0.05, "the comparison is vacuous when nothing an action does matters"


@pytest.mark.parametrize("absence", ["tokens", "gist"])
def test_a_drop_then_the_insert_of_its_block_give_opposite_values(absence):
    model = tiny_model()
    document = make_document(model)
    tree, node = replace(TREE, absence=absence), Node(1, 5)
    level = 0 if absence == "tokens" else 1
    shown = LODMap.of_tokens(tree, 0, 64).with_level(slice(5, 6), level)
    absent = shown.with_level(slice(5, 6), ABSENT)
    measured = []
    for head, kind in ((shown, "drop"), (absent, "insert")):
        trajectory = Trajectory(head, (64, 70), HORIZON)
        action = Action(kind, node, level)
        assert action in trajectory.legal_actions(PROTECTED_TAIL)
        measured += measure(model, document, trajectory, [action_edit(trajectory, action)])
    torch.testing.assert_close(measured[0], -measured[1], atol=1e-4, rtol=0)
    assert measured[0].abs().max() > 0.01


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox", "cohere"])
def test_absence_of_all_but_the_newest_tokens_is_truncation(architecture):
    """Same entries, same losses: rotary positions are relative, so those of a context may begin anywhere."""
    model = tiny_model(architecture)
    document = make_document(model)
    absent = truncation_map(TREE, 0, 96, 64)
    truncated = LODMap.of_tokens(TREE, 64, 96)
    for column in ("level_N", "index_N", "first_token_N", "span_width_N"):
        assert np.array_equal(getattr(absent.entries, column), getattr(truncated.entries, column))
    losses = [
        measure_baseline(model, document, Trajectory(one, (96,), HORIZON)).nll_H
        for one in (absent, truncated)
    ]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)


def test_the_first_and_the_last_block_are_measured_right():
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    first = Action("expand", Node(2, 1))
    last = Action("collapse", Node(1, 21))
    assert {first, last} <= set(trajectory.legal_actions(0))
    assert TREE.span(first.node)[0] == trajectory.head.start
    assert TREE.span(last.node)[1] + TREE.block_size > trajectory.last_cursor
    edits = [action_edit(trajectory, action) for action in (first, last)]
    for action, edit, delta_H in zip(
        (first, last), edits, measure(model, document, trajectory, edits), strict=True
    ):
        snapshot = trajectory.head.extended(edit.first_token)
        expected_H = naive_delta_nll(model, document, snapshot, action, len(delta_H))
        torch.testing.assert_close(delta_H, expected_H, atol=1e-4, rtol=0)


def test_a_collapse_then_the_expand_of_its_result_give_opposite_values():
    model = tiny_model()
    document = make_document(model)
    fine = LODMap.of_tokens(TREE, 0, 64)
    node = Node(1, 5)
    coarse = fine.with_level(fine.blocks_of(node), 1)
    measured = []
    for head, kind in ((fine, "collapse"), (coarse, "expand")):
        trajectory = Trajectory(head, (64, 70), HORIZON)
        measured += measure(model, document, trajectory, [action_edit(trajectory, Action(kind, node))])
    torch.testing.assert_close(measured[0], -measured[1], atol=1e-4, rtol=0)
    assert measured[0].abs().max() > 0.01


def test_a_joint_edit_is_the_context_with_all_of_its_actions():
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    actions = [Action("expand", Node(2, 1)), Action("collapse", Node(1, 13)), Action("expand", Node(1, 14))]
    (delta_H,) = measure(model, document, trajectory, [joint_edit(trajectory, actions)])
    snapshot = trajectory.head
    for action in actions[:-1]:
        snapshot = apply_action(snapshot, action)
    before_H = naive_nll(model, document, trajectory.head, HORIZON)
    after_H = naive_delta_nll(model, document, snapshot, actions[-1], HORIZON) + naive_nll(
        model, document, snapshot, HORIZON
    )
    torch.testing.assert_close(delta_H[:HORIZON], after_H - before_H, atol=1e-4, rtol=0)


def windowed_by_hand(model, document, trajectory, edit: Edit, window: int) -> torch.Tensor:
    """The definition: a pass over the whole edited context in which the entries between the window and the
    horizon keep the keys and values they had in the baseline; by running layer after layer over both."""
    entries = trajectory.context.entries
    first_read = entries.index_of_token(edit.first_token) - 1
    kept = range(edit.end_entry + window, first_read)
    shift = edit.length_change
    edited = entries.sliced(slice(0, edit.first_entry)).followed_by(
        edit.replacement, entries.sliced(slice(edit.end_entry, None))
    )
    stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(context, attention):
        position_N = torch.from_numpy(context.position_N(trajectory.head.start))
        embeddings_Nd = torch.cat(
            [document.embeddings[level][index : index + 1] for level, index in
             zip(context.level_N.tolist(), context.index_N.tolist(), strict=True)]
        )  # fmt: skip
        network = model.network
        hidden = embeddings_Nd[None]
        rotary = network.model.rotary_emb(hidden, position_N[None])
        for number, layer in enumerate(network.model.layers):
            attention(number)
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
        return network.lm_head(network.model.norm(hidden))[0]

    def hooked(number: int, substitute: bool):
        def forward(module, query, key, value, attention_mask, scaling, sliding_window=None, **kwargs):
            if not substitute:
                stored[number] = (key, value)
            else:
                key, value = key.clone(), value.clone()
                for i in kept:
                    key[:, :, i + shift] = stored[number][0][:, :, i]
                    value[:, :, i + shift] = stored[number][1][:, :, i]
            groups = query.shape[1] // key.shape[1]
            scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            if sliding_window:
                causal = causal.triu(1 - sliding_window)
            weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
            return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), None

        return forward

    def with_hooks(substitute: bool):
        def attention(number: int) -> None:
            ALL_ATTENTION_FUNCTIONS["by_hand"] = hooked(number, substitute)

        return attention

    model.network.set_attn_implementation("eager")
    with torch.inference_mode():
        ALL_ATTENTION_FUNCTIONS["by_hand"] = hooked(0, False)
        model.network.config._attn_implementation = "by_hand"
        before = run(entries, with_hooks(False))
        after = run(edited, with_hooks(True))
        model.network.config._attn_implementation = "sdpa"
    targets_H = document.tokens_T[edit.first_token : trajectory.end]
    nll = [
        torch.nn.functional.cross_entropy(logits[-len(targets_H) - 1 : -1], targets_H, reduction="none")
        for logits in (before, after)
    ]
    return nll[1] - nll[0]


WINDOWED = {
    mixed_trajectory: [("expand", 2, 1), ("collapse", 1, 13), ("expand", 1, 14), ("collapse", 1, 17)],
    holed_trajectory: [
        ("insert", 1, 2), ("insert", 1, 11), ("drop", 1, 3), ("drop", 1, 9), ("drop", 1, 15),
    ],
}  # fmt: skip
"""kind, level and index of actions; a block of tokens and a gist are dropped"""


@pytest.mark.parametrize("make_trajectory", WINDOWED)
@pytest.mark.parametrize(
    ("architecture", "window"), [("llama", 0), ("llama", 3), ("llama", 7), ("mistral", 0), ("mistral", 3)]
)
def test_the_windowed_estimator_equals_its_definition(architecture, window, make_trajectory):
    model, trajectory = tiny_model(architecture), make_trajectory()
    document = make_document(model)
    legal = trajectory.legal_actions(PROTECTED_TAIL)
    largest = 0.0
    for kind, level, index in WINDOWED[make_trajectory]:
        (action,) = [one for one in legal if (one.kind, one.node) == (kind, Node(level, index))]
        edit = action_edit(trajectory, action)
        (found_H,) = measure(model, document, trajectory, [edit], window=window)
        (exact_H,) = measure(model, document, trajectory, [edit])
        expected_H = windowed_by_hand(model, document, trajectory, edit, window)
        torch.testing.assert_close(found_H, expected_H, atol=1e-4, rtol=0)
        largest = max(largest, float((found_H - exact_H).abs().max()))
    assert largest > 1e-3


@pytest.mark.parametrize("make_trajectory", WINDOWED)
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_window_that_reaches_the_horizon_is_exact(architecture, make_trajectory):
    model, trajectory = tiny_model(architecture), make_trajectory()
    document = make_document(model)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    exact = measure(model, document, trajectory, edits)
    windowed = measure(model, document, trajectory, edits, window=trajectory.head.num_entries)
    for exact_H, windowed_H in zip(exact, windowed, strict=True):
        torch.testing.assert_close(windowed_H, exact_H, atol=0, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("window", [None, 2, 6])
def test_results_do_not_depend_on_the_grouping(architecture, window):
    model, trajectory = tiny_model(architecture), mixed_trajectory()
    document = make_document(model)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    one_by_one = measure(model, document, trajectory, edits, 1, window)
    shuffled = list(reversed(range(len(edits))))
    together = measure(model, document, trajectory, [edits[i] for i in shuffled], 10**6, window)
    for position, i in enumerate(shuffled):
        torch.testing.assert_close(together[position], one_by_one[i], atol=1e-5, rtol=0)


def test_an_edit_that_changes_nothing_has_no_effect():
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    edits = [no_edit(trajectory, entry) for entry in (0, 7, 30)]
    for delta_H in measure(model, document, trajectory, edits, 10**6):
        torch.testing.assert_close(delta_H, torch.zeros_like(delta_H), atol=1e-5, rtol=0)


class OutOfMemory:
    """A model whose device holds no more than `room` entries of a pass."""

    def __init__(self, model, room: int, room_for_baseline: int = 10**9) -> None:
        self._model, self._room, self._room_for_baseline = model, room, room_for_baseline
        self.refused = 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def token_nll(self, embeddings_BLd, position_BL, targets_H, plans):
        is_baseline = plans[0].record is not None
        room = self._room_for_baseline if is_baseline else self._room
        if embeddings_BLd.shape[0] * embeddings_BLd.shape[1] > room:
            self.refused += 1
            raise torch.OutOfMemoryError("no room")
        return self._model.token_nll(embeddings_BLd, position_BL, targets_H, plans)


def test_out_of_memory_halves_the_batch_and_goes_on():
    trajectory = Trajectory(LODMap.of_tokens(TREE, 0, 64), (64, 70), HORIZON)
    tight = OutOfMemory(tiny_model(), room=100)
    document = make_document(tight)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(0)]
    baseline, batching = measure_baseline(tight, document, trajectory), Batching(10**6)
    found = measure_edits(tight, document, trajectory, edits, baseline, batching).deltas
    assert tight.refused > 0
    assert batching.tokens <= 400
    for found_H, expected_H in zip(found, measure(tight, document, trajectory, edits), strict=True):
        torch.testing.assert_close(found_H, expected_H, atol=1e-5, rtol=0)
    refused = tight.refused
    measure_edits(tight, document, trajectory, edits, baseline, batching)
    assert tight.refused <= refused + 2, "the size that fits is remembered"


def test_one_edit_that_does_not_fit_is_refused_with_the_remedy():
    trajectory = mixed_trajectory()
    tight = OutOfMemory(tiny_model(), room=3)
    document = make_document(tight)
    with pytest.raises(ModelError, match=r"out of memory on a single edit.*smaller"):
        measure(tight, document, trajectory, [action_edit(trajectory, Action("expand", Node(2, 1)))])


def test_a_whole_context_that_does_not_fit_is_refused_with_the_remedy():
    tight = OutOfMemory(tiny_model(), room=100, room_for_baseline=10)
    with pytest.raises(ModelError, match=r"out of memory on a whole context.*smaller"):
        measure_baseline(tight, make_document(tight), mixed_trajectory())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_losses_near_the_exact_ones(dtype):
    trajectory = mixed_trajectory()
    exact, half = tiny_model(), tiny_model()
    half.network.to(dtype)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    expected = measure(exact, make_document(exact), trajectory, edits)
    found = measure(half, make_document(half), trajectory, edits, 10**6)
    for found_H, expected_H in zip(found, expected, strict=True):
        assert found_H.dtype == torch.float32
        assert (found_H - expected_H).abs().mean() < 0.1


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3"])
def test_attention_mass_is_the_models_own_attention_of_the_reading_entries(architecture):
    model, trajectory = tiny_model(architecture), mixed_trajectory()
    document = make_document(model)
    found_N = measure_baseline(model, document, trajectory, attention_mass=True).attention_mass_N
    entries = trajectory.context.entries.sliced(slice(0, -1))
    embeddings_ND = torch.cat(
        [document.embeddings[level][index : index + 1] for level, index in
         zip(entries.level_N.tolist(), entries.index_N.tolist(), strict=True)]
    )  # fmt: skip
    position_N = torch.from_numpy(entries.position_N(trajectory.head.start))
    model.network.set_attn_implementation("eager")
    with torch.inference_mode():
        weights = model.network(
            inputs_embeds=embeddings_ND[None], position_ids=position_N[None], use_cache=False,
            attention_mask=torch.ones(1, len(entries), dtype=torch.long), output_attentions=True,
        ).attentions  # fmt: skip
    mean_NN = torch.stack([layer[0].mean(dim=0) for layer in weights]).mean(dim=0)
    first_read = trajectory.head.num_entries - 1
    for entry in range(len(entries)):
        readers = range(max(first_read, entry), len(entries))
        expected = mean_NN[readers.start :, entry].mean()
        torch.testing.assert_close(found_N[entry], expected, atol=1e-5, rtol=1e-3)


def test_attention_with_parts_unknown_to_the_evaluator_is_refused():
    query = torch.zeros(1, 2, 3, 8)
    with pytest.raises(ModelError, match="keyword arguments"):
        shared_attention(torch.nn.Identity(), query, query, query, None)
    with pytest.raises(ModelError, match="sinks"):
        shared_attention(torch.nn.Identity(), query, query, query, None, plans=[], s_aux=torch.zeros(2))


def test_position_gaps_do_not_block_attention():
    """transformers takes a position jump without a mask for a packed-sequence border; ours must not."""
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    entries = trajectory.head.entries
    embeddings_ND = torch.cat(
        [document.embeddings[level][index : index + 1] for level, index in
         zip(entries.level_N.tolist(), entries.index_N.tolist(), strict=True)]
    )  # fmt: skip
    position_N = torch.from_numpy(entries.position_N(trajectory.head.start))
    assert (position_N.diff() > 1).any()
    keep_H = torch.arange(len(entries))
    causal_mask = torch.ones(len(entries), len(entries), dtype=torch.bool).tril()[None, None]
    common = {"inputs_embeds": embeddings_ND[None], "position_ids": position_N[None], "use_cache": False}
    with torch.inference_mode():
        expected = model.network(**common, attention_mask=causal_mask).logits[0]
        trapped = model.network(**common).logits[0]
        whole = model.logits(embeddings_ND, position_N, keep_H)
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    assert (trapped - expected).abs().max() > 0.1, "transformers no longer has the trap: simplify base_model"


def test_baseline_is_the_naive_loss_of_the_unedited_context():
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    baseline = measure_baseline(model, document, trajectory)
    for cursor in trajectory.cursors:
        first = cursor - trajectory.first_cursor
        expected_H = naive_nll(model, document, trajectory.head.extended(cursor), HORIZON)
        torch.testing.assert_close(baseline.nll_H[first : first + HORIZON], expected_H, atol=1e-4, rtol=0)


def test_a_context_longer_than_the_models_positions_is_refused_with_the_remedy():
    model = tiny_model()
    document = make_document(model, num_tokens=600)
    trajectory = Trajectory(LODMap.of_tokens(TREE, 0, 520), (520,), HORIZON)
    with pytest.raises(ModelError, match="later start"):
        measure_baseline(model, document, trajectory)
