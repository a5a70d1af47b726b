"""A local store on several nodes is allowed exactly when every node sees the same folder."""

import pytest

from mctrace.collect.workers import shared_folder_check
from mctrace.collect.workers.shared_folder_check import answer, refuse_unshared
from mctrace.errors import ConfigError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(shared_folder_check, "_PATIENCE", 0.3)


def test_nodes_that_read_and_write_the_same_folder_are_enough(tmp_path):
    asked = []

    def ask(place, nodes):
        for node in nodes:
            answer(place, node)
            asked.append(node)

    refuse_unshared(tmp_path, ["one", "two"], ask)
    assert asked == ["one", "two"]
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_node_with_a_folder_of_its_own_at_that_path_is_named(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "staging").mkdir(parents=True)
    here.mkdir()

    def ask(place, nodes):
        answer(place, "one")
        answer(there / place.relative_to(here), "two")

    with pytest.raises(ConfigError, match=r"2 nodes and 1 of them \(two\).*--store"):
        refuse_unshared(here, ["one", "two"], ask)


def test_a_node_that_cannot_write_and_one_that_answers_with_something_else_are_named(tmp_path):
    def ask(place, nodes):
        (place / "liar").write_text("whatever lay there before")

    with pytest.raises(ConfigError, match=r"2 of them \(liar, silent\)"):
        refuse_unshared(tmp_path, ["silent", "liar"], ask)
