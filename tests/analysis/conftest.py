"""Shared read-only stores whose numbers are worked out by hand."""

from collections.abc import Iterator

import duckdb
import pytest

from mctrace.datasets.sql.connection import connect
from mctrace.datasets.store.store import Store
from tests.analysis.synthetic import BY_HAND, Measured, Trajectory, write_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("by-hand") / "store", BY_HAND)


@pytest.fixture(scope="session")
def connection(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Shared: a test that sets a variable resets it."""
    with connect(store.at()) as connected:
        yield connected


@pytest.fixture(scope="session")
def stores_without_labels(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """An empty store, one with an unmeasured document, one where every measurement failed."""
    bare = Trajectory("bare", "train", [])
    failed = Trajectory("failed", "train", [Measured("expand", 1, 4, None)])
    folder = tmp_path_factory.mktemp("without-labels")
    return [
        write_store(folder / "empty", []),
        write_store(folder / "bare", [bare]),
        write_store(folder / "failed", [failed]),
    ]
