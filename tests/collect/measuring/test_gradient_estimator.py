"""Gradient estimates must equal a slow transcription of their definition, and exact effects in the limit."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.gradient_estimator import estimate_edits
from mctrace.collect.planning.edits import Edit, action_edit, drop_control, droppable_nodes, no_edit
from mctrace.collect.planning.gradient_passes import stretches_of
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import build_tree
from tests.collect.measuring.test_evaluator import (
    HORIZON,
    PROTECTED_TAIL,
    TREE,
    make_document,
    mixed_trajectory,
)
from tests.models import CONFIGS, tiny_model


def all_edits(trajectory: Trajectory) -> list[Edit]:
    actions = trajectory.legal_actions(PROTECTED_TAIL)
    nodes = droppable_nodes(trajectory, actions)
    controls = [drop_control(trajectory, node) for node in nodes]
    return [action_edit(trajectory, action) for action in (*actions, *controls)]


def embedded(document, entries):
    return torch.cat(
        [document.embeddings[level][index : index + 1].clone() for level, index in
         zip(entries.level_N.tolist(), entries.index_N.tolist(), strict=True)]
    )  # fmt: skip


def scored(query, key, scaling, softcap):
    scores = query @ key.transpose(-1, -2) * scaling
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def by_autograd(model, document, trajectory, edit: Edit, cursor: int) -> float:
    """The definition for one edit and cursor: one sequence of the baseline and the edit's observers under an
    explicit mask, autograd's gradient of the horizon's mean loss at every attention output, and every output
    computed anew from the keys that the query would see in the edited context."""
    entries = trajectory.context.entries
    entries = entries.sliced(slice(0, len(entries) - 1))
    N, M, shift = len(entries), len(edit.replacement), edit.length_change
    whole = entries.followed_by(edit.replacement)
    edited_index = [*range(N), *range(edit.first_entry, edit.first_entry + M)]
    seen_before = torch.zeros(N + M, N + M, dtype=torch.bool)
    for i in range(N):
        seen_before[i, : i + 1] = True
    for r in range(M):
        seen_before[N + r, : edit.first_entry] = True
        seen_before[N + r, N : N + r + 1] = True
    calls = []

    def attention(module, query, key, value, mask, scaling=None, sliding_window=None, softcap=None, **others):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        seen = seen_before.clone()
        if sliding_window is not None:
            at = torch.tensor(edited_index)
            seen &= at[None, :] > at[:, None] - sliding_window
        scores = scored(query, key, scaling, softcap)
        out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value
        out.requires_grad_()
        out.retain_grad()
        calls.append((query.detach(), key.detach(), value.detach(), out, scaling, softcap, sliding_window))
        return out.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS["slow_gradient"] = attention
    own = model.network.config._attn_implementation
    model.network.set_attn_implementation("slow_gradient")
    position = torch.from_numpy(whole.position_N(trajectory.head.start))
    logits = model.network(
        inputs_embeds=embedded(document, whole)[None].requires_grad_(), position_ids=position[None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool), use_cache=False,
    ).logits[0]  # fmt: skip
    model.network.set_attn_implementation(own)
    first = trajectory.context.entries.index_of_token(cursor) - 1
    targets = document.tokens_T[cursor : cursor + HORIZON]
    cross_entropy(logits[first : first + HORIZON].float(), targets).backward()

    total = 0.0
    for query, key, value, out, scaling, softcap, window in calls:
        for i in range(edit.end_entry, N):
            visible = []
            for j in [*range(edit.first_entry), *range(N, N + M), *range(edit.end_entry, i + 1)]:
                index = j if j < edit.first_entry else edited_index[j] if j >= N else j + shift
                if window is None or index > i + shift - window:
                    visible.append(j)
            weights = scored(query[0, :, i : i + 1], key[0, :, visible], scaling, softcap).softmax(-1)
            after = (weights @ value[0, :, visible])[:, 0]
            total += float((out.grad[0, :, i] * (after - out[0, :, i].detach())).sum())
    return total


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_estimate_equals_the_slow_transcription_at_every_cursor(architecture):
    model, trajectory = tiny_model(architecture), mixed_trajectory()
    document = make_document(model)
    edits = all_edits(trajectory)
    found = estimate_edits(model, document, trajectory, edits, Batching(20))
    largest = 0.0
    for edit, delta_H in list(zip(edits, found.deltas, strict=True))[::2]:
        for cursor in trajectory.cursors[::2]:
            if cursor < edit.first_token:
                continue
            first = cursor - edit.first_token
            expected = by_autograd(model, document, trajectory, edit, cursor)
            assert float(delta_H[first : first + HORIZON].mean()) == pytest.approx(
                expected, abs=2e-4, rel=1e-3
            )
            largest = max(largest, abs(expected))
    assert largest > 0.02, "the comparison is vacuous when nothing an edit does matters"


def test_the_baseline_is_the_exact_evaluators():
    model, trajectory = tiny_model("gemma2"), mixed_trajectory()
    document = make_document(model)
    edits = all_edits(trajectory)
    found = estimate_edits(model, document, trajectory, edits, Batching(64)).baseline
    exact = measure_baseline(model, document, trajectory)
    torch.testing.assert_close(found.nll_H, exact.nll_H, atol=1e-5, rtol=0)
    for way in (found, exact):
        deltas = measure_edits(model, document, trajectory, edits[:3], way, Batching(64)).deltas
        alone = measure_edits(model, document, trajectory, edits[:1], exact, Batching(64)).deltas
        torch.testing.assert_close(deltas[0], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_an_edit_that_changes_nothing_is_estimated_at_nothing(architecture):
    model, trajectory = tiny_model(architecture), mixed_trajectory()
    entries = trajectory.context.entries
    same = Edit(20, 24, entries.sliced(slice(20, 24)), trajectory.first_cursor)
    deltas = estimate_edits(
        model, make_document(model), trajectory, [no_edit(trajectory, 7), same], Batching(64)
    ).deltas
    for delta_H in deltas:
        torch.testing.assert_close(delta_H, torch.zeros_like(delta_H), atol=1e-5, rtol=0)


def test_one_layer_whose_attention_moves_the_loss_linearly_is_exact():
    """Scaled down, what a single layer's attention adds changes the loss in proportion."""
    model, trajectory = tiny_model(), mixed_trajectory()
    model.network.model.layers = model.network.model.layers[:1]
    model.network.config.num_hidden_layers = 1
    model.network.model.layers[0].self_attn.o_proj.weight.data.mul_(1e-2)
    document = make_document(model)
    edits = all_edits(trajectory)
    estimated = estimate_edits(model, document, trajectory, edits, Batching(64)).deltas
    baseline = measure_baseline(model, document, trajectory)
    exact = measure_edits(model, document, trajectory, edits, baseline, Batching(64)).deltas
    at_cursor = [  # An edit up to the cursor takes away the entry whose output is read first.
        i for i, edit in enumerate(edits) if edit.first_token == trajectory.first_cursor
        and edit.end_entry < trajectory.context.entries.index_of_token(trajectory.first_cursor)
    ]  # fmt: skip
    means = torch.tensor([[float(way[i][:HORIZON].mean()) for i in at_cursor] for way in (estimated, exact)])
    assert len(at_cursor) > 20
    assert (means[0] - means[1]).abs().max() < 0.03 * means[1].abs().max()
    assert means[1].abs().max() > 1e-4


def test_stretches_are_cut_at_horizons_and_at_every_segment():
    trajectory = Trajectory(LODMap.of_tokens(TREE, 0, 64), (64, 70), 12)
    assert stretches_of(trajectory) == [(0, 6), (6, 12), (12, 18)]
    assert stretches_of(trajectory, 4) == [(0, 4), (4, 6), (6, 8), (8, 12), (12, 16), (16, 18)]


def test_segments_add_up_to_the_horizons_mean_and_to_each_part_alone():
    model = tiny_model()
    document = make_document(model)
    head = LODMap.of_tokens(TREE, 0, 64)
    trajectory, shorter = (Trajectory(head, (64,), horizon) for horizon in (HORIZON, HORIZON // 3))
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    whole, parts = (
        estimate_edits(model, document, trajectory, edits, Batching(64), segment=segment).deltas
        for segment in (None, 4)
    )
    (alone, *_) = estimate_edits(model, document, shorter, edits, Batching(64)).deltas
    for whole_H, parts_H in zip(whole, parts, strict=True):
        assert len(whole_H.unique()) == 1
        torch.testing.assert_close(parts_H.mean(), whole_H.mean(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(parts[0][:4], alone, atol=1e-6, rtol=1e-4)


def test_estimates_do_not_depend_on_the_order_of_edits_nor_on_the_batches():
    model, trajectory = tiny_model("gemma3"), mixed_trajectory()
    document = make_document(model)
    edits = all_edits(trajectory)
    together = estimate_edits(model, document, trajectory, edits, Batching(10**6)).deltas
    turned = estimate_edits(model, document, trajectory, edits[::-1], Batching(1)).deltas[::-1]
    for one_H, other_H in zip(together, turned, strict=True):
        torch.testing.assert_close(one_H, other_H, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_near_float32_and_float16_is_refused():
    trajectory = mixed_trajectory()
    exact, half = tiny_model(), tiny_model()
    half.network.to(torch.bfloat16)
    edits = all_edits(trajectory)
    expected, found = (
        torch.stack(
            [d.mean() for d in estimate_edits(m, make_document(m), trajectory, edits, Batching(64)).deltas]
        )
        for m in (exact, half)
    )
    assert torch.corrcoef(torch.stack([expected, found]))[0, 1] > 0.9
    half.network.to(torch.float16)
    with pytest.raises(ModelError, match="underflow in float16"):
        estimate_edits(half, make_document(half), trajectory, edits, Batching(64))


def test_memory_for_scores_does_not_grow_with_the_context(monkeypatch):
    """No tensor of N x N scores: the largest chunk stays at its limit."""
    import mctrace.base_model.attention_edits as module

    monkeypatch.setitem(module._CHUNK_SCORES, "cpu", 2**12)
    largest, scores_of = [], module._scores

    def watched(*arguments):
        scores, slope = scores_of(*arguments)
        largest.append(scores.numel())
        return scores, slope

    monkeypatch.setattr(module, "_scores", watched)
    model = tiny_model()
    tokens = 400
    document = make_document(model, num_tokens=tokens + HORIZON)
    trajectory = Trajectory(LODMap.of_tokens(TREE, 0, tokens), (tokens,), HORIZON)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    few = estimate_edits(model, document, trajectory, edits, Batching(64)).deltas
    assert max(largest) <= 4 * 16 * (tokens + HORIZON)
    monkeypatch.setitem(module._CHUNK_SCORES, "cpu", 2**30)
    for one_H, other_H in zip(
        few, estimate_edits(model, document, trajectory, edits, Batching(64)).deltas, strict=True
    ):
        torch.testing.assert_close(one_H, other_H, atol=1e-5, rtol=1e-4)


def test_layers_that_are_called_otherwise_are_refused_by_name():
    model, trajectory = tiny_model(), mixed_trajectory()
    layer = model.network.model.layers[0]
    model.network.model.layers = torch.nn.ModuleList([layer, layer])
    edits = [no_edit(trajectory, 3)]
    with pytest.raises(ModelError, match="cannot differentiate a llama model"):
        estimate_edits(model, make_document(model), trajectory, edits, Batching(64))


@pytest.mark.slow
def test_signs_agree_with_exact_labels_on_the_real_model():
    """Beyond 0.1 nats per token signs agree, and sizes correlate; smaller effects agree less often."""
    from benchmarks.evaluator_cases import TREE as LARGE_TREE
    from benchmarks.evaluator_cases import make_documents, make_model
    from mctrace.gists.network.loading import load_gistnet

    model = make_model("smollm2-135m", "float32", "cpu")
    gistnet, estimated, exact = load_gistnet("smollm2-135m-k32"), [], []
    trajectory = Trajectory(LODMap.of_tokens(LARGE_TREE, 0, 512), (512,), 64)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(64)]
    for source in make_documents(model, "smollm2-135m", 6, trajectory.end):
        document = type(source)(source.tokens_T, build_tree(gistnet, source.embeddings[0], LARGE_TREE))
        found = estimate_edits(model, document, trajectory, edits, Batching(2048))
        measured = measure_edits(model, document, trajectory, edits, found.baseline, Batching(2048)).deltas
        estimated += [float(delta_H.mean()) for delta_H in found.deltas]
        exact += [float(delta_H.mean()) for delta_H in measured]
    large = np.abs(exact) > 0.1
    assert large.sum() >= 6
    assert (np.sign(estimated) == np.sign(exact))[large].mean() >= 0.8
    assert np.corrcoef(estimated, exact)[0, 1] >= 0.6
