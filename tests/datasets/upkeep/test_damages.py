"""No damage to any kind of file passes `mctrace verify`, or a reader, without a word that names the file."""

from pathlib import Path

import pytest

from tests.datasets.upkeep.damages import (
    READ,
    files_by_kind,
    found_by_reading,
    found_by_verify,
    store_with_every_kind,
    try_damages,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return store_with_every_kind(tmp_path_factory.mktemp("damages"))


def test_the_store_has_every_kind_of_file(whole):
    kinds = set(files_by_kind(Path(whole.location.root)))
    assert {
        "mctrace-store.json",
        "head/VERSION-HASH-VERSION-HASH",
        "ledger/rows-HASH.parquet",
        "ledger/_delta_log/VERSION.json",
        "ledger/_delta_log/VERSION.checkpoint.parquet",
        "ledger/_delta_log/_last_checkpoint",
        "parts/document/PART/documents.parquet",
        "parts/document/PART/arrays.zarr/zarr.json",
        "parts/document/PART/arrays.zarr/gists/lod2/c/0/0",
        "parts/trajectory/PART/effects.parquet",
    } <= kinds


@pytest.mark.parametrize("kinds", ["mctrace-store|head", "ledger", "parts/[^t]", "parts/t"])
def test_verify_names_whatever_is_damaged(whole, kinds):
    found = try_damages(whole, found_by_verify, kinds=kinds, per_kind=3 if kinds == "ledger" else 1)
    assert len(found.tried) > 6
    assert found.unnoticed == []


def test_who_reads_what_was_damaged_is_told(whole):
    found = try_damages(whole, found_by_reading, kinds=READ, flips=1, per_kind=1)
    assert len(found.tried) > 60
    assert found.unnoticed == []
