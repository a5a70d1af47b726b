"""Pairs on disk: what they hold, and that memory does not grow with their number."""

import gc
from pathlib import Path

import duckdb
import pytest

from mctrace.datasets.batches.label_reader import alone
from mctrace.datasets.batches.pair_files import Comparisons, open_pair_files, write_pair_files
from mctrace.datasets.batches.pair_reader import all_moves, open_preference_data
from mctrace.errors import InputError
from tests.datasets.batches.test_label_files import MIB, private_bytes
from tests.train.stores import learnable_store

GROUP = 5


def written(folder: Path, num_groups: int) -> Comparisons:
    """Made-up groups of five variants, each worse than those before it; every pair is chosen."""
    folder.mkdir()
    connection = duckdb.connect(config={"memory_limit": "128MB", "threads": 1})
    connection.execute(f"set temp_directory = '{folder / 'spill'}'")
    connection.execute(f"""
        create view chosen_variants as
        select 'snapshot of a group' || i || ':' || j as snapshot_id, 'd' as document_id,
            'group' || lpad(i::text, 9, '0') as variant_group_id, 64::bigint as cursor, j / 8 as adv_delta,
            't' || (i // 1000) as trajectory_id
        from range({num_groups}) as g(i), range({GROUP}) as v(j);
        create view chosen_pairs as
        select variant_group_id, 'train' as split, better.snapshot_id as better_snapshot_id,
            worse.snapshot_id as worse_snapshot_id
        from chosen_variants as better join chosen_variants as worse using (variant_group_id)
        where better.adv_delta < worse.adv_delta;
        create view stored_trajectories as
        select 't' || i as trajectory_id, 'd' as document_id, 0::bigint as start,
            repeat([1::utinyint], 2) as levels,
            [64::bigint] as cursors, 8::bigint as protected_tail, 'm' as model_hash, 't' as tokenizer_hash,
            'g' as gist_hash, 'float32' as dtype, 32::int as block_size, 2::int as max_level,
            'off' as absence, null::varchar as semantics, null::int as gist_positions
        from range({num_groups} // 1000 + 1) as t(i);
        create view stored_documents as select * from stored_trajectories;
    """)
    rows = write_pair_files(connection, folder)
    connection.close()
    assert (rows["train"].adv_mean, rows["train"].adv_variance) == (0.25, pytest.approx(2 / 64))
    return open_pair_files(folder, rows)["train"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_reading_every_pair_takes_as_little_memory_for_many_as_for_few(tmp_path):
    grown = {}
    for num_groups in (100, 4000):
        found = written(tmp_path / str(num_groups), num_groups)
        gc.collect()
        before, most, num_pairs = private_bytes(), 0, 0
        for number, comparison in enumerate(found):
            num_pairs += len(comparison.others)
            assert all(other.adv_delta < comparison.variant.adv_delta for other in comparison.others)
            if number % 200 == 0:
                most = max(most, private_bytes() - before)
        assert (len(found), num_pairs) == (num_groups * (GROUP - 1), num_groups * 10)
        assert found.num_pairs == num_pairs
        grown[num_groups] = most
    few, many = grown.values()
    # As objects in memory twenty thousand variants with their pairs would take some 15 MB.
    assert many < few + 4 * MIB


def test_both_contexts_of_a_pair_are_compared_when_asked(tmp_path):
    store = learnable_store(tmp_path / "store", num_documents=5, num_variants=3).at()
    found = {
        both: [
            (one.variant.snapshot_id, other.snapshot_id)
            for one in open_preference_data(
                store, max_pairs=4, hard_negative_share=1.0, both=both
            ).comparisons("train")
            for other in one.others
        ]
        for both in (False, True)
    }
    assert len(set(found[True])) == len(found[True]) == 2 * len(found[False])
    assert set(found[True]) == {*found[False], *((other, one) for one, other in found[False])}


def test_moves_of_a_group_come_together_with_all_of_its_variants(tmp_path):
    store = learnable_store(tmp_path / "store", num_documents=5, num_variants=3)
    data = open_preference_data(store.at(), max_pairs=100, hard_negative_share=1.0)
    groups = [moves[0].variant.group_id for moves in all_moves(data, "train")]
    assert len(groups) == len(set(groups)) > 1
    for moves in all_moves(data, "train"):
        names = {one.snapshot_id for one in moves[0].group}
        assert {move.variant.snapshot_id for move in moves} <= names
        assert all({other.group_id for other in move.others} == {moves[0].variant.group_id} for move in moves)


def test_the_files_are_gone_once_they_are_open_and_after_an_error(tmp_path):
    store = learnable_store(tmp_path / "traces", num_documents=5, num_variants=3).at()
    folders = []

    def watched(make, use):
        def seen(files):
            folders.append(files.folder)
            assert sorted(path.name for path in files.folder.iterdir()) == [
                "comparisons.arrow", "maps.arrow", "variants.arrow",
            ]  # fmt: skip
            return use(files)

        return alone(make, seen)

    data = open_preference_data(store, max_pairs=8, hard_negative_share=1.0, once_per_machine=watched)
    with pytest.raises(InputError, match="no pair of variants"):
        open_preference_data(
            store, max_pairs=8, hard_negative_share=1.0, where="strength > 1e9", once_per_machine=watched
        )
    assert [folder.exists() for folder in folders] == [False]
    assert data.comparisons("train")[0].others
