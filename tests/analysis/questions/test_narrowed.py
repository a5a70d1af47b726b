"""Analyses restricted to a part of a store."""

from pathlib import Path

import duckdb
import pytest

from mctrace.analysis.questions.catalogue import narrowed, run_analysis
from mctrace.datasets.sql.connection import connect
from tests.analysis.synthetic import BY_HAND, Measured, Trajectory, add_trajectories, write_store

LABELS = "select count(*) from labels"


def count(connection: duckdb.DuckDBPyConnection, query: str = LABELS) -> int:
    return connection.execute(query).fetchall()[0][0]


def test_one_run_of_two(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", BY_HAND)
    later = [Trajectory("d", "train", [Measured("expand", 1, 4, 0.5)])]
    add_trajectories(store, later, "run'2")
    with connect(store.at()) as connection:
        assert count(connection) == 13
        with narrowed(connection, "run_id", ["run'2"]):
            assert count(connection) == 1
            assert count(connection, "select count(*) from labels_at(16)") == 1
            assert count(connection, "select count(*) from snapshots") == 1
            (run,) = run_analysis(connection, "provenance")
            assert (run["run_id"], run["num_labels"]) == ("run'2", 1)
        assert count(connection) == 13


def test_trajectories_by_name_and_none(connection: duckdb.DuckDBPyConnection) -> None:
    with narrowed(connection, "trajectory_id", ["trajectory-b"]):
        assert count(connection) == 4
    with narrowed(connection, "trajectory_id", []):
        assert count(connection) == 0
    assert count(connection) == 12


def test_an_error_inside_restores_the_views(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(RuntimeError), narrowed(connection, "trajectory_id", ["trajectory-b"]):
        raise RuntimeError
    assert count(connection) == 12
