"""Stores that earlier releases wrote: every version answers as it did on the day it was written."""

import json
import tarfile
from pathlib import Path

import pytest

from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep.verify import verify
from mctrace.progress import Silent
from tests.datasets.synthetic import add_document
from tests.stores.make import answers

FOLDERS = sorted(Path(__file__).parent.glob("v*"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def unpacked(request, tmp_path) -> tuple[Store, dict[str, object]]:
    with tarfile.open(request.param / "store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return open_store(str(tmp_path / "store")), json.loads((request.param / "expected.json").read_text())


def test_every_version_answers_as_it_did_when_it_was_written(unpacked):
    store, expected = unpacked
    assert store.at().version == len(expected) - 1
    for version in (0, len(expected) // 2, len(expected) - 1):
        assert answers(store.at(version)) == expected[str(version)]


def test_an_old_store_is_whole_trains_and_grows(unpacked):
    store, expected = unpacked
    assert list(verify(store.at(), quick=False, progress=Silent())) == []
    data = open_training_data(store.at())
    assert all(data.snapshots(split) for split in ("train", "validation", "test"))
    newest = store.at().version
    add_document(store, "new", "train", seed=7)
    assert store.at().version == newest + 1
    assert answers(store.at(newest)) == expected[str(newest)]
