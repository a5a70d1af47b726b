"""A large file is read for its hash once, and again when it has changed."""

import hashlib
import os

import pytest

from mctrace.base_model import hash_memory
from mctrace.base_model.hash_memory import remembered_hash


@pytest.fixture
def readings(monkeypatch):
    read = []

    def counted(path):
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(hash_memory, "file_hash", counted)
    return read


def test_it_is_read_again_only_when_size_or_time_have_changed(readings, tmp_path):
    file, cache = tmp_path / "model.safetensors", tmp_path / "cache"
    file.write_bytes(b"weights")
    first = remembered_hash(file, cache)
    assert remembered_hash(file, cache) == first == hashlib.sha256(b"weights").hexdigest()
    assert len(readings) == 1
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))
    assert remembered_hash(file, cache) == hashlib.sha256(b"WEIGHTS").hexdigest()
    assert len(readings) == 2


def test_a_damaged_note_or_a_cache_that_cannot_be_written_costs_only_time(readings, tmp_path):
    file, cache = tmp_path / "model.safetensors", tmp_path / "cache"
    file.write_bytes(b"weights")
    expected = remembered_hash(file, cache)
    (note,) = cache.glob("hashes/*.json")
    note.write_text("{")
    assert remembered_hash(file, cache) == expected
    (tmp_path / "a file").write_text("")
    assert remembered_hash(file, tmp_path / "a file" / "cache") == expected
    assert len(readings) == 3
