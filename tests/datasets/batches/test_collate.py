"""Batches carry the spec's keys, gathered from tokens, gists and the embedding table."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mctrace.datasets.batches.collate import make_batch, ordered_batches, shuffled_batches
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.batches.padded_batch import scores_of_actions
from mctrace.datasets.sql.target import Target
from mctrace.datasets.sql.target_merging import merged_targets
from mctrace.errors import InputError, StoreError
from tests.datasets.synthetic import (
    EFFECTS,
    add_document,
    add_other_gists,
    add_other_model,
    add_trajectory,
    document_arrays,
    embedding_table,
)


@pytest.fixture
def data(store):
    return open_training_data(store.at(), "priced", utility_scale=0.5)


def test_splits_are_by_document(data):
    for split, document in (("train", "a"), ("validation", "b"), ("test", "c")):
        assert {s.document_id for s in data.snapshots(split)} == {document}
        assert [s.snapshot_id for s in data.snapshots(split)] == [f"t{document}:32", f"t{document}:36"]


def test_an_empty_split_and_an_unknown_one_are_errors(data):
    with pytest.raises(InputError, match="unknown split"):
        data.snapshots("dev")
    object.__setattr__(data, "splits", {"train": ()})
    with pytest.raises(InputError, match="no labelled snapshot"):
        data.snapshots("train")


def test_each_entry_shows_the_embedding_the_base_model_would_see(data):
    batch = make_batch(data, data.snapshots("train"))
    arrays, table = document_arrays(0), embedding_table()
    expected = np.concatenate(
        [arrays["gists/lod2"][:1], arrays["gists/lod1"][4:6], table[arrays["tokens"][24:36]]]
    )
    torch.testing.assert_close(batch.context_embeddings[1], torch.from_numpy(expected))
    assert batch.entry_mask.sum(1).tolist() == [11, 15]
    assert (batch.context_embeddings[0, 11:] == 0).all()
    assert batch.levels[1, :5].tolist() == [2, 1, 1, 0, 0]
    assert batch.span_width[1, :5].tolist() == [16, 4, 4, 1, 1]
    assert batch.distance_to_cursor[1, :4].tolist() == [20, 16, 12, 11]
    assert batch.context_tokens.tolist() == [32, 36]


def test_tail_gists_are_the_latest_complete_nodes_before_the_cursor(data):
    batch = make_batch(data, data.snapshots("train"))
    arrays = document_arrays(0)
    torch.testing.assert_close(batch.tail_gists[1, 0], torch.from_numpy(arrays["gists/lod2"][1]))
    torch.testing.assert_close(batch.tail_gists[1, 1:], torch.from_numpy(arrays["gists/lod1"][4:9]))
    assert batch.tail_mask.all()


def test_missing_tail_gists_are_masked(store):
    add_document(store, "short", "train", 5)
    add_trajectory(store, "short", "short", [dict(_expand_first())], levels=(1, 0, 0), cursors=(10,))
    data = open_training_data(store.at(), "literal", utility_scale=1.0)
    (snapshot,) = [s for s in data.snapshots("train") if s.document_id == "short"]
    batch = make_batch(data, [snapshot])
    assert batch.tail_mask[0].tolist() == [False, False, False, False, True, True]
    assert (batch.tail_gists[0, :4] == 0).all()


def _expand_first():
    from tests.datasets.synthetic import effect

    return effect("expand", 1, 0, 10, [-1.0] * 4)


def test_targets_are_in_score_units_and_reach_their_entries(data):
    batch = make_batch(data, data.snapshots("train"))
    row = 1  # cursor 36: expands worth 3 and -1, collapses 0.25 (for two) and 0.75
    assert batch.action_present[row].sum() == 4
    by_kind = batch.action_is_expand[row].tolist()
    assert by_kind == [True, True, False, False]
    expand_of = batch.expand_action[row].tolist()
    assert [i for i, a in enumerate(expand_of) if a >= 0] == [0, 1]
    collapse_of = batch.collapse_action[row].tolist()
    assert collapse_of[3:11] == [collapse_of[3]] * 4 + [collapse_of[7]] * 4
    assert collapse_of[11:] == [-1] * 4
    # the price is 0.25 for three positions: the best expand is paid by the block that was worth least
    assert batch.target_utilities[row, 0] == pytest.approx((3 - 0.25) / 0.5)
    assert (batch.target_utilities[row, 3:7] == 0).all()
    assert batch.regression_weights[row, :4].tolist() == [1, 1, 0, 0.25]
    assert batch.action_inclusion[row].tolist() == [1, 1, 0.5, 1]
    assert batch.action_delta_nll[row].tolist() == pytest.approx([1.0, -3.0, 0.25, 0.75])


def test_one_score_per_action_is_the_mean_over_its_group(data):
    batch = make_batch(data, data.snapshots("train"))
    scores_BN = torch.arange(batch.levels.numel(), dtype=torch.float32).view(batch.levels.shape)
    found = scores_of_actions(scores_BN, batch)
    row = scores_BN[1]
    assert found[1].tolist() == [row[1], row[0], row[3:7].mean(), row[7:11].mean()]


def test_merging_an_expand_and_a_collapse_on_one_entry():
    expand, collapse = np.array([0, -1, 0, -1]), np.array([1, 1, -1, -1])
    both = np.array([0.5, -0.8])
    summed, weights = merged_targets(expand, collapse, both, "sum", 4)
    assert summed == pytest.approx([-0.3, -0.8, 0.5, 0])
    assert weights == pytest.approx([1, 0.25, 1, 0])
    largest, _ = merged_targets(expand, collapse, both, "largest", 4)
    assert largest == pytest.approx([-0.8, -0.8, 0.5, 0])
    mean, _ = merged_targets(expand, collapse, np.array([-0.5, 0.8]), "mean", 4)
    assert mean == pytest.approx([0.15, 0.8, -0.5, 0])


def test_every_epoch_sees_each_snapshot_once_in_its_own_order(store):
    for i in range(8):
        add_trajectory(store, f"more{i}", "a", [dict(_expand_at(24 + 4 * i))], cursors=(32 + 0 * i,))
    data = open_training_data(store.at(), "literal", utility_scale=1.0)

    def epoch(seed, number):
        batches = shuffled_batches(data, "train", 3, seed=seed, epoch=number)
        return [i for batch in batches for i in batch.snapshot_ids]

    ordered = [i for batch in ordered_batches(data, "train", 4) for i in batch.snapshot_ids]
    assert sorted(epoch(0, 0)) == sorted(ordered) == sorted(epoch(0, 1))
    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)


def _expand_at(first_token):
    from tests.datasets.synthetic import effect

    return effect("expand", 1, 4, 32, [-0.5 * first_token] * 4)


def test_labels_of_two_base_models_or_gists_do_not_mix(store):
    add_other_gists(store)
    with pytest.raises(InputError, match=r"mixes labels.*gists other.*--mix gists"):
        open_training_data(store.at())
    with pytest.raises(InputError, match="--mix gists"):
        open_training_data(store.at(), mix=("models",))
    add_other_model(store)
    with pytest.raises(InputError, match="--mix models --mix gists"):
        open_training_data(store.at(), mix=("gists",))


def test_a_mixture_asked_for_by_name_reads_each_snapshot_with_its_own_gists_and_embeddings(store):
    add_other_gists(store)
    add_other_model(store)
    data = open_training_data(store.at(), utility_scale=1.0, mix=("models", "gists"))
    assert (data.provenance.gist_hash, data.provenance.model_hash) == (
        "mean+mean+other",
        "larger+model+model",
    )
    snapshots = {s.snapshot_id: s for s in data.snapshots("train")}
    batch = make_batch(data, [snapshots[name] for name in ("ta:32", "other:32", "larger:32")])
    arrays, others, table = document_arrays(0), document_arrays(7), embedding_table()
    for row, gists in enumerate((arrays, others, others)):
        expected = torch.from_numpy(gists["gists/lod1"][4:6])
        torch.testing.assert_close(batch.context_embeddings[row, 1:3], expected)
    torch.testing.assert_close(
        batch.context_embeddings[1, 3:], torch.from_numpy(table[others["tokens"][24:32]])
    )
    assert (batch.context_embeddings[2, 3:] == 1).all()


def test_what_cannot_stand_in_one_batch_is_refused_whatever_is_asked_for(store):
    add_other_model(store, width=5)
    data = open_training_data(store.at(), utility_scale=1.0, mix=("models",))
    with pytest.raises(InputError, match=r"different widths \(3, 5\)"):
        _ = data.embedding_dim
    add_document(store, "a", "train", 7, block_size=8)
    add_trajectory(store, "wider", "a", EFFECTS, block_size=8, levels=(1, 0, 0, 0), cursors=(32,))
    with pytest.raises(InputError, match="different trees"):
        open_training_data(store.at(), mix=("models", "gists", "dtypes"))


@pytest.mark.parametrize("array", ["embedding_table", "tokens", "gists/lod1"])
def test_a_missing_chunk_is_refused_instead_of_read_as_zeros(store, array):
    chunks = Path(store.location.root).glob(f"parts/*/*/*/arrays.zarr/{array}/c/**/*")
    next(file for file in sorted(chunks) if file.is_file()).unlink()
    with pytest.raises(StoreError, match=f"{array}.*mctrace verify"):
        open_training_data(store.at())


def test_a_target_of_ones_own_that_fails_says_so(store, tmp_path):
    (tmp_path / "mine.sql").write_text("select *, no_such_column as utility from labels -- mine")
    with pytest.raises(InputError, match=r"mine\.sql.*no_such_column"):
        open_training_data(store.at(), str(tmp_path / "mine.sql"))


def test_a_store_without_labels_says_what_to_do(tmp_path):
    from mctrace.datasets.store.store import create_store

    with pytest.raises(InputError, match="mctrace collect"):
        open_training_data(create_store(str(tmp_path / "empty")).at())


@pytest.mark.parametrize(
    "sql",
    [
        "from labels); copy (select 1) to 'parts/new.parquet'; select * from (select 1",
        "copy (select 1) to 'parts/new.parquet'",
        "select 1 as utility",
        "select *, 'much' as utility from labels",
    ],
)
def test_a_target_is_one_query_that_gives_labels_a_number(store, sql):
    with pytest.raises(InputError):
        open_training_data(store.at(), Target("mine", sql))
