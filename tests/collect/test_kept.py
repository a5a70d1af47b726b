"""Contexts that stay as they were read, from a configuration to a trained step."""

import json
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mctrace.base_model.masked_pass import linear_layers
from mctrace.base_model.model_source import resolve_model
from mctrace.collect.planning.run_plan import check_anchored, provenance_of
from mctrace.collect.planning.trace_files import TRACES
from mctrace.context.tree import AnchoredTree
from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from mctrace.errors import ConfigError, InputError, ModelError
from mctrace.gists.network.key_value_gistnet import KeyValueGistConfig, KeyValueGistNet
from mctrace.gists.network.loading import load_gistnet
from mctrace.train.config import TrainConfig
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.focus import directions
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.budget import asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss
from tests.collect.runs import tiny_run
from tests.models import VOCABULARY, save_tiny_model, tiny_model

K, M = 4, 2
ABSENCE = {"tree.absence": "tokens", "collect.max_actions": None}
FEW = {"corpus.limit": 3, "collect.trajectories_per_document": 1}


@pytest.fixture(scope="module")
def run(tiny_settings, tmp_path_factory):
    beside = {"collect.joint_edits": 2, "collect.drop_controls": True, "collect.num_random_variants": 1}
    changes = {"gists.source": f"kept-{M}", **ABSENCE, **beside, "corpus.limit": 6}
    made = tiny_run(tiny_settings, tmp_path_factory.mktemp("kept"), **changes)
    made.measure()
    return made


@pytest.fixture(scope="module")
def version(run):
    return run.store.at()


def expected_positions(row):
    def takes(level):
        return M if level else 1

    if row["action"] in ("expand", "collapse"):
        return K * takes(row["node_level"] - 1) - takes(row["node_level"])
    return K ** (row["node_level"] - row["entry_level"]) * takes(row["entry_level"])


def test_labels_name_their_semantics_and_cost_the_positions_of_their_anchors(version):
    rows = fetch_rows(connect(version), "from labels")
    assert {row["action"] for row in rows} == {"expand", "collapse", "insert", "drop"}
    assert {(row["action"], row["node_level"]) for row in rows} >= {("expand", 2), ("collapse", 2)}
    for row in rows:
        assert (row["semantics"], row["gist_hash"], row["estimator"]) == ("kept", f"kept-{M}", "exact")
        assert row["positions"] == expected_positions(row)
    (one,) = fetch_rows(connect(version), "select distinct semantics, gist_positions, gist_source from runs")
    assert one == {"semantics": "kept", "gist_positions": M, "gist_source": f"kept-{M}"}
    assert fetch_rows(connect(version), "from joint_edits where semantics = 'kept'")
    assert fetch_rows(connect(version), "from controls where gist_value is not null")
    compared = fetch_rows(connect(version), "from variants where not is_baseline")
    assert any(row["adv_delta"] for row in compared)


def test_an_effect_begins_with_a_loss_that_was_predicted_before_it(version):
    rows = fetch_rows(connect(version), "select delta_nll from effects where status = 'ok'")
    assert rows
    assert all(row["delta_nll"][0] == 0 for row in rows)
    assert any(max(map(abs, row["delta_nll"])) > 1e-3 for row in rows)


def test_snapshots_count_positions_and_random_maps_keep_to_them(version, run):
    rows = fetch_rows(
        connect(version),
        "select s.*, t.levels, t.first_cursor, t.start from snapshots as s join trajectories as t using "
        "(trajectory_id)",
    )
    tree = AnchoredTree(K, 2, "tokens", M)
    for row in rows:
        counts = np.bincount(np.minimum(row["levels"], 3), minlength=4)
        entries = [int(counts[0]) * K, int(counts[1]), int(counts[2]) // K]
        taken = sum(n * tree.positions_of(level) for level, n in enumerate(entries))
        assert row["num_entries"] == sum(entries) + row["cursor_offset"]
        assert row["num_positions"] == taken + row["cursor_offset"]
    random = [r for r in rows if r["policy"] == "random" and r["cursor_offset"] == 0]
    assert random
    assert max(row["num_positions"] for row in random) <= run.config.collect.train_wc_length


@pytest.mark.parametrize("target", ["priced", "value_and_price"])
def test_a_network_learns_a_step_from_them(version, target):
    data = open_training_data(version, target)
    assert data.provenance.semantics == "kept"
    batch = make_batch(data, data.snapshots("train"))
    positions = defaultdict(list)
    for row in fetch_rows(connect(version), "from labels where split = 'train'"):
        positions[row["snapshot_id"]].append(row["positions"])
    for i, name in enumerate(batch.snapshot_ids):
        assert sorted(batch.action_positions[i][batch.action_present[i]].tolist()) == sorted(positions[name])
    shown = {r["snapshot_id"]: r["num_positions"] for r in fetch_rows(connect(version), "from snapshots")}
    assert batch.num_positions.tolist() == [shown[name] for name in batch.snapshot_ids]
    values_BN = torch.zeros(batch.levels.shape)
    costs = [one.positions_BN for one in directions(values_BN, values_BN, batch)]
    found = (batch.expand_action, batch.collapse_action, batch.drop_action)
    for cost_BN, index_BN in zip(costs, found, strict=True):
        row, entry = torch.nonzero(index_BN >= 0, as_tuple=True)
        assert len(row)
        assert torch.equal(cost_BN[row, entry], batch.action_positions[row, index_BN[row, entry]].float())
    config = TrainConfig(network=NetworkConfig(name="linear", d_lens=16, num_heads=2))
    network = build_network(
        config.network, data.embedding_dim, absence=data.absence, price=data.target.learns_price
    )
    loss = counterfactual_loss(network(batch, asked_rooms(batch)), batch, ObjectiveConfig())
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_store_of_both_semantics_is_read_one_at_a_time(tiny_settings, tmp_path):
    for source in ("kept-1", "mean"):
        run = tiny_run(tiny_settings, tmp_path, **{"gists.source": source, **FEW})
        run.measure()
    version = run.store.at()
    with pytest.raises(InputError, match="never go together: choose one with --where \"semantics = 'kept'\""):
        open_training_data(version, "value", mix=("gists",))
    for semantics, gists in (("kept", "kept-1"), ("re_encoded", "mean")):
        data = open_training_data(version, "value", where=f"semantics = '{semantics}'")
        assert (data.provenance.semantics, data.provenance.gist_hash) == (semantics, gists)


def test_adapters_are_named_by_their_hash_and_change_labels(tiny_settings, tmp_path, run):
    model = tiny_model()
    network = KeyValueGistNet(KeyValueGistConfig(K, linear_layers(model.network), rank=2))
    for up in network.up.values():
        torch.nn.init.normal_(up, std=0.5)
    network.save_pretrained(tmp_path / "keys")
    changes = {"gists.source": str(tmp_path / "keys"), "gists.num_anchors": M, **ABSENCE}
    adapted = tiny_run(tiny_settings, tmp_path, **changes, **FEW)
    adapted.measure()
    (found,) = fetch_rows(
        connect(adapted.store.at()), "select distinct gist_hash, semantics, gist_positions from trajectories"
    )
    assert found == {
        "gist_hash": f"kept-{M}-{network.content_hash}", "semantics": "kept", "gist_positions": M,
    }  # fmt: skip
    assert all(np.isfinite(value) for value in adapted.labels().values())


def test_what_does_not_fit_is_refused_by_name(tiny_settings, tmp_path):
    local = save_tiny_model(tmp_path / "mistral")
    tiny_model("mistral").network.save_pretrained(local)
    with pytest.raises(ModelError, match="mistral model has local attention"):
        tiny_run(tiny_settings, tmp_path, **{"gists.source": "kept-2", "model.name": str(local)})
    with pytest.raises(ModelError, match="gists of 4 positions would stand for blocks of 4"):
        tiny_run(tiny_settings, tmp_path, **{"gists.source": "kept-4"})
    with pytest.raises(ModelError, match="'kept-2' are several positions of a span, which only"):
        load_gistnet("kept-2")


@pytest.mark.parametrize(
    ("source", "estimator", "is_refused"),
    [
        ("kept-2", "gradient", True), ("kept-2", "windowed", True), ("kept-2", "exact", False),
        ("extract-2", "gradient", True), ("extract-2", "windowed", False), ("mean", "gradient", False),
    ],
)  # fmt: skip
def test_estimators_that_mean_nothing_to_these_gists_are_refused(
    tiny_settings, tmp_path, source, estimator, is_refused
):
    settings = {"gists.source": source, "collect.estimator": estimator}
    run = tiny_run(tiny_settings, tmp_path, **settings, **FEW)
    config = run.config
    provenance = provenance_of(run.source, config.model, config.gists, config.tree)
    if is_refused:
        with pytest.raises(ConfigError, match=r"collect\.estimator: gists\.source .* is measured without"):
            check_anchored(provenance, config.gists, config.collect)
    else:
        check_anchored(provenance, config.gists, config.collect)


def test_extracts_cost_their_positions_and_are_read_again(tiny_settings, tmp_path):
    run = tiny_run(tiny_settings, tmp_path, **{"gists.source": f"extract-{M}", **ABSENCE, **FEW})
    run.measure()
    rows = fetch_rows(connect(run.store.at()), "from labels")
    assert {row["action"] for row in rows} >= {"collapse", "insert", "drop"}
    for row in rows:
        assert (row["semantics"], row["gist_hash"]) == ("re_encoded", f"extract-{M}")
        assert row["positions"] == expected_positions(row)
    assert any(row["delta_nll"] for row in rows)
    # Where an effect stands is said in entries of the map, as for any other gist.
    for row in fetch_rows(
        connect(run.store.at()),
        "select e.*, t.start, t.levels, t.cursors from effects as e join trajectories as t using "
        "(trajectory_id) where action = 'collapse' and node_level = 1",
    ):
        assert row["num_entries"] == K


def test_a_logged_map_is_measured_by_the_semantics_asked_for(tiny_settings, tmp_path, call_mctrace):
    source = resolve_model(str(tiny_settings["model.name"]))
    row = {
        "source": "session", "tokenizer_hash": source.tokenizer_hash, "document_id": None,
        "tokens": [(7 * t * t + t) % VOCABULARY for t in range(120)], "block_size": K, "start": 16,
        "levels": [2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 255, 0, 0, 0, 0, 0], "cursors": [80, 84, 91],
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row], schema=TRACES), tmp_path / "traces.parquet")
    given = {**tiny_settings, "store.uri": str(tmp_path / "store"), "gists.source": "kept-1"}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    code, _, err = call_mctrace(
        "collect", "--no-ray", "--traces", str(tmp_path / "traces.parquet"), *settings
    )
    assert code == 0, err
    (found,) = fetch_rows(
        connect(open_store(str(tmp_path / "store")).at()),
        "select distinct policy, semantics, gist_hash from labels",
    )
    assert found == {"policy": "import", "semantics": "kept", "gist_hash": "kept-1"}
