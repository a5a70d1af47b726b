"""One run on the real model: SmolLM2-135M on Python's own sources, held against the slow definition."""

import numpy as np
import pytest
import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import SMOLLM2_ALIAS, resolve_model
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll
from mctrace.collect.planning.action_sampling import sample_actions
from mctrace.collect.planning.edits import action_edit
from mctrace.collect.planning.map_policies import recency_map
from mctrace.context.actions import is_legal_at
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from tests.collect.runs import tiny_run

pytestmark = [pytest.mark.real_model, pytest.mark.slow]


def test_labels_of_a_real_model_equal_the_naive_evaluation():
    source = resolve_model(SMOLLM2_ALIAS)
    model = load_base_model(source, "float32", "cpu")
    import argparse
    import inspect

    text = inspect.getsource(argparse)
    tokens_T = torch.tensor(source.load_tokenizer().encode(text, add_special_tokens=False)[:1500])
    tree = TreeShape(8, 2)
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), tree))
    head = recency_map(tree, 512, 1024, (96, 192))
    trajectory = Trajectory(head, (1024, 1040), horizon=32)
    legal = trajectory.legal_actions(protected_tail=32)
    actions = [s.action for s in sample_actions(legal, 8, np.random.default_rng(0))]
    assert len({(a.kind, a.node.level) for a in actions}) == 4
    baseline = measure_baseline(model, document, trajectory)
    assert 0.5 < float(baseline.nll_H.mean()) < 4.0
    edits = [action_edit(trajectory, action) for action in actions]
    measured = measure_edits(model, document, trajectory, edits, baseline, Batching(2048))
    for action, edit, delta_H in zip(actions, edits, measured.deltas, strict=True):
        for cursor in trajectory.cursors:
            if is_legal_at(action, tree, cursor, 32):
                expected_H = naive_delta_nll(model, document, head.extended(cursor), action, 32)
                first = cursor - edit.first_token
                torch.testing.assert_close(delta_H[first : first + 32], expected_H, atol=1e-4, rtol=0)


def test_a_small_run_on_the_real_model_leaves_sensible_labels(tmp_path):
    settings = {
        "model.name": SMOLLM2_ALIAS,
        "corpus.paths": ("stdlib",),
        "corpus.limit": 3,
        "corpus.min_tokens": 1600,
        "corpus.max_tokens": 2000,
        "collect.window": 1280,
        "collect.policies": ("recency",),
        "collect.trajectories_per_document": 1,
        "collect.recency_level_tokens": (160, 64),
        "collect.cursors_per_trajectory": 2,
        "collect.horizon": 64,
        "collect.max_actions": 6,
    }
    run = tiny_run(settings, tmp_path)
    summary = run.measure()
    assert summary.num_effects == 18
    rows = fetch_rows(
        connect(run.store.at()),
        "select action, entry_level, avg(value_of_detail) as value, max(abs(delta_nll)) as largest "
        "from labels group by all",
    )
    by_kind = {(row["action"], row["entry_level"]): row for row in rows}
    assert ("collapse", 0) in by_kind
    assert ("expand", 1) in by_kind
    # losing the text just before the protected tail costs something on average, and nothing costs 5 nats
    assert by_kind["collapse", 0]["value"] > 0
    assert all(row["largest"] < 5 for row in rows)
