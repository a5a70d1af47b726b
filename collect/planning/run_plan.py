"""The plan of a whole run: every trajectory of every document, and which of them the store lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mctrace.base_model.source import ModelSource
from mctrace.collect.config import CollectConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.documents import Document
from mctrace.collect.planning.part_ids import (
    document_part_id,
    embeddings_part_id,
    vocabulary_part_id,
    with_id,
)
from mctrace.collect.planning.trajectories import MapMaker, plan_document
from mctrace.collect.planning.work_units import PlannedTrajectory
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError, ModelError
from mctrace.gists.network.loading import load_gistnet


@dataclass(frozen=True)
class RunPlan:
    """Everything a run would measure, and the documents it needs for that."""

    documents: dict[str, Document]
    trajectories: tuple[PlannedTrajectory, ...]
    provenance: Provenance
    num_too_short: int
    led_by: str | None = None
    """identity of whoever made the maps of the policy `lensnet`; None where nobody did"""

    @property
    def is_windowed(self) -> bool:
        return any(planned.estimator_window is not None for planned in self.trajectories)

    def of_documents(self, documents: dict[str, Document]) -> "RunPlan":
        """The same plan for those documents alone, placed as they are now."""
        kept = tuple(planned for planned in self.trajectories if planned.document_id in documents)
        return replace(self, documents=documents, trajectories=kept)

    def exactly(self) -> "RunPlan":
        """The same plan with every action measured exactly, and so under other part ids."""
        exact: list[PlannedTrajectory] = []
        ids: dict[str, str] = {}
        for planned in self.trajectories:  # each trajectory before its side measurements
            trajectory_id = ids.get(planned.trajectory_id, "")
            planned_exactly = with_id(
                replace(planned, trajectory_id=trajectory_id, estimator_window=None, audited=()),
                self.provenance,
            )
            ids[planned.trajectory_id] = planned_exactly.trajectory_id
            exact.append(planned_exactly)
        return replace(self, trajectories=tuple(exact))

    def missing(self, store: Store | None) -> list[PlannedTrajectory]:
        """Planned trajectories the ledger does not list; all of them where there is no store yet.

        Where the store lacks a part that a run only brings along, a document, the embedding table or the
        vocabulary, though all that needs it was measured, one trajectory is measured again for it.
        """
        done = store.at().part_ids if store else frozenset()
        missing = [planned for planned in self.trajectories if planned.part_id not in done]
        lacking = self.missing_documents(store) - {planned.document_id for planned in missing}
        tables = {embeddings_part_id(self.provenance), vocabulary_part_id(self.provenance.tokenizer_hash)}
        if not missing and not lacking and not tables <= done:
            return list(self.trajectories[:1])
        brings = {planned.document_id: planned for planned in reversed(self.trajectories)}
        return [*missing, *(brings[document_id] for document_id in sorted(lacking))]

    def num_done(self, store: Store | None) -> int:
        """How many of the planned trajectories the ledger lists."""
        done = store.at().part_ids if store else frozenset()
        return sum(planned.part_id in done for planned in self.trajectories)

    def missing_documents(self, store: Store | None) -> set[str]:
        """Ids of planned documents whose tokens and gists are not in the store."""
        done = store.at().part_ids if store else frozenset()
        return {d for d in self.documents if document_part_id(d, self.provenance) not in done}


def check_fits(plan: RunPlan, source: ModelSource) -> None:
    """Raises ModelError, before any work, when the base model cannot take the plan's contexts or tokens."""
    widest = max(plan.trajectories, key=lambda planned: planned.trajectory.num_positions)
    positions, has = widest.trajectory.num_positions, source.max_positions
    if positions > has:
        raise ModelError(
            f"a context of {plan.documents[widest.document_id].source} spans {positions} positions, the base "
            f"model {source.name!r} has {has}: use a later start (a smaller collect.window)"
        )
    for document in plan.documents.values():
        if document.tokens.max() >= source.vocabulary_size:
            raise ModelError(
                f"{document.source} has token id {document.tokens.max()}, the base model {source.name!r} has "
                f"{source.vocabulary_size}"
            )


def provenance_of(source: ModelSource, model: ModelConfig, gists: GistConfig, tree: TreeShape) -> Provenance:
    """Hashes of everything labels depend on. Raises ModelError when model and gists do not fit."""
    gistnet = load_gistnet(gists.source)
    gistnet.check_fits(tree.block_size, source.embedding_dim)
    return Provenance(
        source.model_hash,
        source.tokenizer_hash,
        gistnet.content_hash,
        model.dtype,
        tree.block_size,
        tree.max_level,
    )


def make_plan(
    documents: Sequence[Document],
    config: CollectConfig,
    provenance: Provenance,
    lensnet: MapMaker | None = None,
) -> RunPlan:
    """The trajectories of every document; `lensnet` makes the maps of the policy of that name.

    Raises InputError when no document is long enough for a snapshot.
    """
    planned = {d.document_id: tuple(plan_document(d, config, provenance, lensnet)) for d in documents}
    too_short = [d for d in documents if not planned[d.document_id]]
    if len(too_short) == len(documents):
        longest = max(documents, key=lambda d: d.num_tokens)
        raise InputError(
            f"no document is long enough for a snapshot: the longest, {longest.source}, has "
            f"{longest.num_tokens} tokens; lower collect.horizon, collect.cursors_per_trajectory or "
            "collect.protected_tail, or give longer documents"
        )
    return RunPlan(
        {d.document_id: d for d in documents if planned[d.document_id]},
        tuple(trajectory for trajectories in planned.values() for trajectory in trajectories),
        provenance,
        len(too_short),
        lensnet.identity if lensnet else None,
    )
