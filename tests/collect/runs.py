"""A run on the tiny model, as the command would make it, for tests of the driver."""

from dataclasses import dataclass
from pathlib import Path

from mctrace.base_model.model_source import ModelSource, resolve_model
from mctrace.cli.configuration import PipelineConfig, load_config
from mctrace.collect.corpus.corpus_reader import Skipped, read_corpus
from mctrace.collect.corpus.documents import read_documents
from mctrace.collect.corpus.placement_commits import known_placements
from mctrace.collect.corpus.row_files import Columns
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.planning.plan_stream import PlanInMemory
from mctrace.collect.planning.run_plan import RunPlan, provenance_of
from mctrace.collect.running.driver import RunSummary, run_collection
from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store, create_store
from mctrace.progress import Progress, Silent
from tests.collect.making import make_plan


@dataclass(frozen=True)
class TinyRun:
    """Everything a run needs but its workers."""

    config: PipelineConfig
    store: Store
    source: ModelSource
    plan: RunPlan

    def stream(self) -> PlanInMemory:
        """The plan as a run takes it, placed among what the store has."""
        return PlanInMemory(self.plan, SplitAssigner(self.config.corpus, known_placements(self.store)))

    def measure(
        self,
        start_workers=InProcessPool,
        progress: Progress | None = None,
        retry_quarantined: bool = False,
        compact_every: int = 0,
    ) -> RunSummary:
        return run_collection(
            self.store,
            self.stream(),
            start_workers,
            config=self.config.collect,
            model=self.config.model,
            gists=self.config.gists,
            source=self.source,
            resolved_config=self.config.to_json(),
            corpus=self.config.corpus,
            left_out=Skipped(),
            progress=progress or Silent(),
            retry_quarantined=retry_quarantined,
            compact_every=compact_every,
        )

    def labels(self) -> dict[tuple[object, ...], float]:
        """Every label of the store by its key."""
        rows = fetch_rows(connect(self.store.at()), "from labels")
        keys = ("trajectory_id", "cursor", "action", "node_level", "node_index")
        return {tuple(row[key] for key in keys): row["delta_nll"] for row in rows}


def tiny_run(settings: dict[str, object], folder: Path, **changes: object) -> TinyRun:
    config = load_config(None, (), {"store.uri": str(folder / "store"), **settings, **changes}, {})
    source = resolve_model(config.model.name)
    documents = list(
        read_documents(
            read_corpus(config.corpus.paths, Skipped(), Columns.of(config.corpus)),
            source.load_tokenizer(),
            source.tokenizer_hash,
            config.corpus,
            SplitAssigner(config.corpus, {}),
            Skipped(),
        )
    )
    provenance = provenance_of(source, config.model, config.gists, config.tree)
    plan = make_plan(documents, config.collect, provenance)
    return TinyRun(config, create_store(config.store.uri), source, plan)
