"""Run plan: the units of all documents, and those that a store lacks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.planning.part_ids import document_part_id
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store
from tests.collect.making import PROVENANCE, make_document, make_plan, small_config


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def commit(store: Store, part_id: str, kind: str, **tables: list[dict[str, object]]) -> None:
    store.commit([write_part(store.location, part_id=part_id, kind=kind, run_id="run", tables=tables)])


def test_units_that_the_ledger_does_not_list_are_missing(store):
    documents = [make_document(400, seed=1), make_document(400, seed=2)]
    plan = make_plan(documents, small_config(), PROVENANCE)
    assert plan.missing(None) == plan.missing(store) == list(plan.units)
    assert plan.missing_documents(None) == plan.missing_documents(store) == set(plan.documents)

    commit(store, plan.units[1].part_id, "trajectory", trajectories=[])
    commit(store, document_part_id(documents[0].document_id, PROVENANCE), "document", documents=[])
    assert plan.missing(store) == [plan.units[0], *plan.units[2:]]
    assert plan.missing_documents(store) == {documents[1].document_id}


def test_a_documents_part_is_another_one_for_another_model_gistnet_or_tree():
    provenances = [
        PROVENANCE,
        replace(PROVENANCE, model_hash="another"),
        replace(PROVENANCE, gist_hash="another"),
        replace(PROVENANCE, block_size=8),
        replace(PROVENANCE, max_level=1),
    ]
    ids = [document_part_id(identity, p) for identity in ("one", "two") for p in provenances]
    assert len(set(ids)) == 10


def test_the_placements_of_stored_documents_come_back_as_they_were(store):
    placement = make_document().placement
    row = {
        "document_id": "one",
        "split_group": "first",
        "split": "validation",
        "minhash": placement.minhash.tolist(),
    }
    commit(store, "part-of-one", "document", documents=[row])
    assert known_placements(None) == {}
    (found,) = known_placements(store).items()
    assert found[0] == "one"
    assert (found[1].split_group, found[1].split) == ("first", "validation")
    np.testing.assert_array_equal(found[1].minhash, placement.minhash)
    assert found[1].minhash.dtype == np.uint32
