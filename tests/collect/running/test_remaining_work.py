"""Counts of what a run has to measure, and of what it measures otherwise than was planned."""

import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.documents import DocumentMaker
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.planning.document_plan import estimator_of, plan_document
from mctrace.collect.planning.model_limits import ModelLimits
from mctrace.collect.planning.plan_stream import DocumentPlanner, PlanInMemory
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.running.remaining_work import RemainingWork
from mctrace.progress import Silent
from tests.collect.making import PROVENANCE, make_document, small_config

CONFIG = small_config(estimator="windowed", trajectories_per_document=2, max_actions=6, drop_controls=True)


@dataclass
class Ledger:
    part_ids: set[str] = field(default_factory=set)

    def refresh(self) -> set[str]:
        return self.part_ids


def work_of(listed: set[str], quarantined: frozenset[str] = frozenset()) -> tuple[RemainingWork, RunPlan]:
    """The remaining work of three documents planned with the windowed estimator."""
    documents = [make_document(400, seed) for seed in range(3)]
    units = tuple(unit for one in documents for unit in plan_document(one, CONFIG, PROVENANCE))
    plan = RunPlan({one.document_id: one for one in documents}, units, PROVENANCE)
    stream = PlanInMemory(plan, SplitAssigner(CorpusConfig(), {}))
    stream.estimator = estimator_of(CONFIG)
    store = SimpleNamespace(ledger=Ledger(listed))
    return RemainingWork(store, stream, quarantined), plan  # type: ignore[arg-type]


def counts(work: RemainingWork) -> tuple[int, int, int, int, int]:
    return (
        work.num_documents, work.num_planned, work.num_trajectories, work.num_done, work.num_in_quarantine,
    )  # fmt: skip


def test_what_turns_exact_after_it_was_planned_is_counted_as_if_planned_so():
    _, plan = work_of(set())
    exact = plan.exactly()
    listed = {plan.units[0].part_id, exact.units[2].part_id, exact.units[3].part_id}
    quarantined = frozenset({exact.units[4].part_id})
    late, _ = work_of(listed, quarantined)
    late.plan_head(Silent())
    assert counts(late) == (3, 12, 6, 1, 0)
    late.decide(is_exact=True)
    early, _ = work_of(listed, quarantined)
    early.decide(is_exact=True)
    early.plan_head(Silent())
    assert counts(late) == counts(early) == (3, 12, 6, 2, 2)
    # The first document's trajectory that was measured by the other estimator is measured exactly too.
    missing = [unit.part_id for unit in late.head_plan().units]
    assert missing == [unit.part_id for unit in early.head_plan().units]
    assert set(missing) == {unit.part_id for unit in exact.units} - listed - {
        unit.part_id for unit in exact.units[4:6]
    }


def test_units_counted_where_they_are_planned_bring_their_counts_along():
    maker = DocumentMaker(None, PROVENANCE.tokenizer_hash, CorpusConfig())
    limits = ModelLimits("tiny", 512, 97)
    planner = DocumentPlanner(maker, CONFIG, PROVENANCE, limits, counted_at=64)
    planned = pickle.loads(pickle.dumps(planner.plan(make_document(400))))
    bare = DocumentPlanner(maker, CONFIG, PROVENANCE, limits).plan(make_document(400))
    assert planned.units == bare.units
    for unit, counted_here in zip(planned.units, bare.units, strict=True):
        assert list(unit._sizes) == [64]
        assert unit._sizes[64] == counted_here.size(64)
