"""Labels on disk: what they hold, and that memory does not grow with their number."""

import gc
from pathlib import Path

import duckdb
import numpy as np
import pytest

from mctrace.datasets.batches.label_files import Snapshots, open_label_files, write_label_files
from mctrace.datasets.batches.label_reader import alone, open_training_data
from mctrace.errors import InputError
from tests.train.stores import learnable_store

LABELS_EACH = 500
MIB = 2**20


def written(folder: Path, num_snapshots: int) -> dict[str, Snapshots]:
    """Made-up labels, written by a DuckDB that may not hold them all and spills."""
    folder.mkdir()
    connection = duckdb.connect(config={"memory_limit": "128MB", "threads": 1})
    connection.execute(f"set temp_directory = '{folder / 'spill'}'")
    connection.execute(f"""
        create view chosen_labels as
        select 't' || (i // 1000)::text as trajectory_id, 's' || i as snapshot_id, 'd' as document_id,
            'train' as split, 64::bigint as cursor, 'run' as run_id, 'expand' as action,
            1::utinyint as node_level,
            1::utinyint as entry_level, j::bigint as node_index, 'exact' as estimator,
            (i * {LABELS_EACH} + j)::double as utility, 0.0::double as delta_nll, 0.5::double as stderr,
            1.0::double as inclusion_probability
        from range({num_snapshots}) as s(i), range({LABELS_EACH}) as l(j);
        create view snapshot_cursors as
        select 's' || i as snapshot_id, 0::bigint as start from range({num_snapshots}) as s(i);
        create view stored_trajectories as
        select 't' || i as trajectory_id, 'd' as document_id, 0::bigint as start,
            repeat([1::utinyint], 2) as levels,
            [64::bigint] as cursors, 8::bigint as protected_tail, 'm' as model_hash, 't' as tokenizer_hash,
            'g' as gist_hash, 'float32' as dtype, 32::int as block_size, 2::int as max_level,
            'off' as absence, null::varchar as semantics, null::int as gist_positions
        from range({num_snapshots} // 1000 + 1) as t(i);
        create view stored_documents as select * from stored_trajectories;
        create view estimator_errors as
        select 'run' as run_id, 'expand' as action, 1::utinyint as node_level, 'exact' as estimator,
            0.0::double as residual_stderr where false;
    """)
    ranges = write_label_files(connection, folder)
    connection.close()
    return open_label_files(folder, ranges)


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_reading_every_label_takes_as_little_memory_for_many_as_for_few(tmp_path):
    grown = {}
    for num_snapshots in (40, 1000):
        found = written(tmp_path / str(num_snapshots), num_snapshots)["train"]
        gc.collect()
        before, most, total = private_bytes(), 0, 0.0
        for number, snapshot in enumerate(found):
            total += float(snapshot.labels.utility.sum())
            if number % 20 == 0:
                most = max(most, private_bytes() - before)
        num_labels = num_snapshots * LABELS_EACH
        assert len(found) == num_snapshots
        assert total == num_labels * (num_labels - 1) / 2  # each once
        grown[num_labels] = most
    few, many = grown.values()
    # As arrays in memory half a million labels would take 29 MB.
    assert many < few + 8 * MIB


def test_a_split_is_a_sequence_of_snapshots_read_when_asked_for(tmp_path):
    data = open_training_data(learnable_store(tmp_path / "traces").at())
    found = data.snapshots("train")
    names = [snapshot.snapshot_id for snapshot in found]
    assert names == sorted(names)
    assert len(found) == len(names) == 18
    assert found[-1].snapshot_id == names[-1]
    assert [one.snapshot_id for one in found[3:5]] == names[3:5]
    assert found[0].labels is not found[0].labels
    assert found[0].head is found[1].head  # one trajectory, read once
    assert np.array_equal(found[2].labels.utility, found[2].labels.utility)
    with pytest.raises(IndexError):
        found[18]


def test_the_files_are_gone_once_they_are_open_and_after_an_error(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    store = learnable_store(tmp_path / "traces").at()
    folders = []

    def watched(make, use):
        def seen(files):
            folders.append(files.folder)
            assert sorted(path.name for path in files.folder.iterdir()) == [
                "labels.arrow", "maps.arrow", "snapshots.arrow",
            ]  # fmt: skip
            return use(files)

        return alone(make, seen)

    data = open_training_data(store, once_per_machine=watched)
    with pytest.raises(InputError, match="condition"):
        open_training_data(store, where="no_such_column", once_per_machine=watched)
    assert [folder.exists() for folder in folders] == [False]
    assert not list((tmp_path / "scratch").glob("mctrace-labels-*"))
    assert len(data.snapshots("train")[0].labels) > 0
