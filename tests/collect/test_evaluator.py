"""Labels must equal the slow definition, whatever the architecture, action, level, position or cursor."""

import numpy as np
import pytest
import torch

from mctrace.collect.evaluator import DocumentTree, measure_baseline, measure_effects
from mctrace.collect.naive import naive_delta_nll, naive_nll
from mctrace.context.actions import Action, is_legal_at
from mctrace.context.errors import ModelError
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.gists.gistnet import MeanGistNet, build_tree
from tests.models import VOCABULARY, tiny_model

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


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_every_label_equals_the_naive_evaluation_at_every_cursor(architecture):
    model, trajectory, protected_tail = tiny_model(architecture), mixed_trajectory(), 8
    document = make_document(model)
    actions = trajectory.legal_actions(protected_tail)
    kinds = {(action.kind, action.node.level) for action in actions}
    assert kinds == {("expand", 1), ("expand", 2), ("collapse", 1), ("collapse", 2)}

    baseline = measure_baseline(model, document, trajectory)
    num_compared, largest = 0, 0.0
    for effect in measure_effects(model, document, trajectory, actions, baseline):
        largest = max(largest, float(effect.delta_nll_H.abs().max()))
        for cursor in trajectory.cursors:
            if not is_legal_at(effect.action, TREE, cursor, protected_tail):
                continue
            snapshot = trajectory.head.extended(cursor)
            expected_H = naive_delta_nll(model, document, snapshot, effect.action, HORIZON)
            first = cursor - effect.first_token
            torch.testing.assert_close(
                effect.delta_nll_H[first : first + HORIZON], expected_H, atol=1e-4, rtol=0
            )
            num_compared += 1
    assert num_compared > 2 * len(actions)
    assert largest > 0.05, "the comparison is vacuous when nothing an action does matters"


def test_the_first_and_the_last_block_are_measured_right():
    model, trajectory = tiny_model(), mixed_trajectory()
    document = make_document(model)
    first = Action("expand", Node(2, 1))
    last = Action("collapse", Node(1, 21))
    assert {first, last} <= set(trajectory.legal_actions(0))
    assert TREE.span(first.node)[0] == trajectory.head.start
    assert TREE.span(last.node)[1] + TREE.block_size > trajectory.last_cursor
    baseline = measure_baseline(model, document, trajectory)
    for effect in measure_effects(model, document, trajectory, [first, last], baseline):
        snapshot = trajectory.head.extended(effect.first_token)
        expected_H = naive_delta_nll(model, document, snapshot, effect.action, len(effect.delta_nll_H))
        torch.testing.assert_close(effect.delta_nll_H, expected_H, atol=1e-4, rtol=0)


def test_a_collapse_then_the_expand_of_its_result_give_opposite_values():
    model = tiny_model()
    document = make_document(model)
    fine = LODMap.of_tokens(TREE, 0, 64)
    node = Node(1, 5)
    coarse = fine.with_level(fine.blocks_of(node), 1)
    measured = []
    for head, kind in ((fine, "collapse"), (coarse, "expand")):
        trajectory = Trajectory(head, (64, 70), HORIZON)
        baseline = measure_baseline(model, document, trajectory)
        (effect,) = measure_effects(model, document, trajectory, [Action(kind, node)], baseline)
        measured.append(effect.delta_nll_H)
    torch.testing.assert_close(measured[0], -measured[1], atol=1e-4, rtol=0)
    assert measured[0].abs().max() > 0.01


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
        uncached, _ = model.logits(embeddings_ND, position_N, keep_H, keep_cache=False)
        cached, _ = model.logits(embeddings_ND, position_N, keep_H)
    torch.testing.assert_close(uncached, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cached, expected, atol=1e-4, rtol=1e-4)
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
