"""Columns of the corpus' rows, from the file through a run into SQL."""

import json

import pytest

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store
from tests.collect.runs import tiny_run
from tests.models import save_tiny_model
from tests.stores.make import SETTINGS, write_texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    scratch = tmp_path_factory.mktemp("metadata")
    texts = sorted(write_texts(scratch / "texts").iterdir())
    rows = [{"text": path.read_text(), "language": "xx", "id": i} for i, path in enumerate(texts)]
    (scratch / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        **SETTINGS,
        "model.name": str(save_tiny_model(scratch / "model")),
        "corpus.paths": (str(scratch / "rows.jsonl"),),
        "corpus.metadata_columns": ("language", "id"),
        "collect.cursors_per_trajectory": 1,
        "collect.max_actions": 2,
    }
    run = tiny_run(settings, scratch)
    run.measure()
    return run.store


def test_a_run_keeps_the_columns_it_is_told_to(store):
    rows = fetch_rows(
        connect(store.at()),
        """select metadata->>'language' as language, (metadata->>'id')::int as id, source, count(*) as n
        from labels join documents using (document_id, source) group by all""",
    )
    assert len(rows) == 3
    assert {row["language"] for row in rows} == {"xx"}
    assert all(row["source"] == f"rows.jsonl:{row['id'] + 1}" for row in rows)
