"""Absence from a plan to batches: labels of inserts and drops, controls, and targets of scored nodes."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from mctrace.context.tree import ABSENT
from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.batches.padded_batch import scores_of_actions
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from mctrace.train.config import TrainConfig
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.budget import asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss
from tests.collect.runs import tiny_run


@pytest.fixture(scope="module")
def run(tiny_settings, tmp_path_factory):
    made = tiny_run(
        tiny_settings, tmp_path_factory.mktemp("absence"),
        **{"tree.absence": "tokens", "collect.max_detail": "absent", "collect.drop_controls": True},
    )  # fmt: skip
    made.measure()
    return made


@pytest.fixture(scope="module")
def version(run):
    return open_store(run.config.store.uri).at()


def test_labels_have_the_four_actions_with_their_costs_and_signs(version):
    rows = fetch_rows(connect(version), "from labels")
    assert {row["action"] for row in rows} >= {"insert", "drop", "collapse"}
    size = 4
    for row in rows:
        of_absence = row["action"] in ("insert", "drop")
        expected = size ** (row["node_level"] - row["entry_level"]) if of_absence else size - 1
        assert row["positions"] == expected
        sign = -1 if row["action"] in ("expand", "insert") else 1
        assert row["value_of_detail"] == pytest.approx(sign * row["delta_nll"])


def test_drops_keep_off_the_protected_tail_and_absent_blocks_are_told(version):
    connection = connect(version)
    assert not fetch_rows(
        connection,
        "from labels as l join trajectories as t using (trajectory_id) "
        "where l.action = 'drop' and l.distance_to_cursor < t.protected_tail",
    )
    (found,) = fetch_rows(
        connection,
        "select count(*) as num, any_value(absence) as absence from trajectories "
        f"where list_contains(levels, {ABSENT})",
    )
    assert found["num"]
    assert found["absence"] == "tokens"


def test_an_insert_or_a_drop_is_its_own_control(version):
    rows = fetch_rows(connect(version), "from controls where action in ('insert', 'drop')")
    assert rows
    for row in rows:
        value = row["information_value"] if row["entry_level"] == 0 else row["gist_value"]
        assert value == pytest.approx(row["value_of_detail"])
    both = fetch_rows(connect(version), "from controls where action in ('expand', 'collapse')")
    for row in both:
        assert row["information_value"] - row["gist_value"] == pytest.approx(row["value_of_detail"], abs=1e-6)


@pytest.mark.parametrize(
    ("target", "column"),
    [
        ("priced", "utility_sum"),
        ("literal", "utility_largest"),
        ("value", "utility_mean"),
        ("value_and_price", "utility_mean"),
    ],
)
def test_targets_of_scored_nodes_are_those_of_the_batches(version, target, column):
    data = open_training_data(version, target, utility_scale=1.0)
    rows_of = defaultdict(list)
    for row in fetch_rows(connect(version), f"from entry_targets('{target}') order by first_token"):
        rows_of[row["snapshot_id"]].append(row)
    num_absent = 0
    for snapshot in data.snapshots("train"):
        batch = make_batch(data, [snapshot])
        rows = rows_of[snapshot.snapshot_id]
        nodes = snapshot.lod_map.nodes
        assert [row["entry_level"] for row in rows] == nodes.level_N.tolist()
        assert [row["distance_to_cursor"] for row in rows] == batch.distance_to_cursor[0].tolist()
        np.testing.assert_allclose(
            [row[column] for row in rows], batch.target_utilities[0].numpy(), atol=1e-6
        )
        np.testing.assert_allclose(
            [row["regression_weight"] for row in rows], batch.regression_weights[0].numpy(), atol=1e-6
        )
        assert [row["action_mask"] for row in rows] == batch.action_mask[0].tolist()
        num_absent += int((batch.levels > batch.max_level).sum())
    assert num_absent > 8


def test_a_batch_gives_each_action_the_mean_score_of_its_nodes_and_absent_ones_their_gist(version):
    data = open_training_data(version, "value", utility_scale=1.0)
    snapshot = next(
        s for s in data.snapshots("train") if ABSENT in s.lod_map.levels and s.labels.is_absence.any()
    )
    batch, nodes = make_batch(data, [snapshot]), snapshot.lod_map.nodes
    score_N = torch.arange(len(nodes), dtype=torch.float32)
    found_A = scores_of_actions(score_N[None], batch)[0]
    first_A = snapshot.labels.node_index * 4**snapshot.labels.node_level
    for i, count in enumerate(snapshot.labels.num_entries(4).tolist()):
        first = int(np.searchsorted(nodes.first_token_N, first_A[i]))
        assert found_A[i] == pytest.approx(first + (count - 1) / 2)
    absent = int(np.flatnonzero(nodes.level_N == ABSENT)[0])
    gist_d = data.arrays.document(snapshot.document_id, snapshot.head.provenance).rows(
        1, nodes.index_N[absent : absent + 1]
    )[0]
    assert torch.equal(batch.context_embeddings[0, absent], gist_d)
    assert batch.span_width[0, absent] == 0
    assert batch.levels[0, absent] == batch.coarsest == 3


@pytest.mark.parametrize("target", ["priced", "value_and_price"])
@pytest.mark.parametrize("name", ["linear", "dual_cross_attention", "transformer"])
def test_every_network_learns_from_labels_of_absence(version, name, target):
    data = open_training_data(version, target)
    config = TrainConfig(network=NetworkConfig(name=name, d_lens=16, num_heads=2))
    network = build_network(
        config.network, data.embedding_dim, absence=data.absence, price=data.target.learns_price
    )
    batch = make_batch(data, data.snapshots("train"))
    loss = counterfactual_loss(network(batch, asked_rooms(batch)), batch, ObjectiveConfig())
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert set(loss.terms) == {"L_reg", "L_rank", "L_budget", "L_illegal"}
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_what_was_measured_is_among_the_legal_directions(version):
    data = open_training_data(version, "value_and_price")
    batch = make_batch(data, data.snapshots("train"))
    for index_BN, legal_BN in (
        (batch.expand_action, batch.can_expand),
        (batch.collapse_action, batch.can_collapse),
        (batch.drop_action, batch.can_drop),
    ):
        assert (index_BN >= 0).any()
        assert legal_BN[index_BN >= 0].all()
