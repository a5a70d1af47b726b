import pytest

from tests.datasets.synthetic import synthetic_store


@pytest.fixture
def store(tmp_path):
    return synthetic_store(tmp_path)
