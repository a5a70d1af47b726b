"""Plan of a whole run: the work units of all documents, and which of them the store lacks."""

from collections import defaultdict
from dataclasses import dataclass, replace

from mctrace.base_model.loading import resolve_dtype
from mctrace.base_model.masked_pass import check_whole_attention
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.config import CollectConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.documents import Document
from mctrace.collect.planning.estimators import EXACT, Estimator
from mctrace.collect.planning.model_limits import ModelLimits
from mctrace.collect.planning.part_ids import document_part_id, embeddings_part_id, vocabulary_part_id
from mctrace.collect.planning.work_units import LabelledTrajectory, PlannedTrajectory, WorkUnit
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store
from mctrace.errors import ConfigError, InputError
from mctrace.gists.network.anchored_gists import AnchoredGists, KeptGists
from mctrace.gists.network.loading import load_gists


@dataclass(frozen=True)
class RunPlan:
    """Everything a run would measure, and the documents it needs."""

    documents: dict[str, Document]
    units: tuple[WorkUnit, ...]
    """each trajectory before its side measurements"""
    provenance: Provenance
    lensnet_identity: str | None = None
    """hash of what made the maps of the policy `lensnet`; None for a plan without it"""

    @property
    def is_windowed(self) -> bool:
        return self.estimator.name == "windowed"

    @property
    def estimator(self) -> Estimator:
        """The estimator of the plan's labels; exact where it has none."""
        found = [u.estimator for u in self.units if isinstance(u, LabelledTrajectory)]
        return found[0] if found else EXACT

    @property
    def num_trajectories(self) -> int:
        return sum(isinstance(unit, PlannedTrajectory) for unit in self.units)

    def exactly(self) -> "RunPlan":
        """The plan with every action measured exactly, and so under other part ids."""
        return replace(self, units=tuple(unit.exactly() for unit in self.units))

    def missing(self, store: Store | None) -> list[WorkUnit]:
        """Planned units the ledger does not list; all of them where there is no store yet.

        Where the store lacks a part that accompanies units (a document, the embedding table or the
        vocabulary), though all units that need it were measured, one unit is measured again for it.
        """
        done = store.at().part_ids if store else frozenset()
        missing = [unit for unit in self.units if unit.part_id not in done]
        lacking = self.missing_documents(store) - {unit.document_id for unit in missing}
        tables = {embeddings_part_id(self.provenance), vocabulary_part_id(self.provenance.tokenizer_hash)}
        if not missing and not lacking and not tables <= done:
            return list(self.units[:1])
        brings = {unit.document_id: unit for unit in reversed(self.units)}
        return [*missing, *(brings[document_id] for document_id in sorted(lacking))]

    def num_done(self, store: Store | None) -> int:
        """Number of planned units that the ledger lists."""
        done = store.at().part_ids if store else frozenset()
        return sum(unit.part_id in done for unit in self.units)

    def missing_documents(self, store: Store | None) -> set[str]:
        """Ids of planned documents whose tokens and gists are not in the store."""
        done = store.at().part_ids if store else frozenset()
        return {d for d in self.documents if document_part_id(d, self.provenance) not in done}


def check_fits(plan: RunPlan, source: ModelSource) -> None:
    """Raises ModelError, before any work, when the base model cannot take the plan's contexts or tokens."""
    limits, units = ModelLimits.of(source), defaultdict[str, list[WorkUnit]](list)
    for unit in plan.units:
        units[unit.document_id].append(unit)
    for identity, document in plan.documents.items():
        limits.refuse_unfit(document, units[identity])


def provenance_of(
    source: ModelSource,
    model: ModelConfig,
    gists: GistConfig,
    tree: TreeShape,
    *,
    needs_weights: bool = True,
) -> Provenance:
    """Hashes of everything labels depend on; where weights are not needed, those of the configuration alone.

    Raises ModelError when model and gists do not fit.
    """
    gistnet = load_gists(gists.source, gists.num_anchors)
    gistnet.check_fits(tree.block_size, source.embedding_dim)
    is_kept = isinstance(gistnet, KeptGists)
    if is_kept:
        check_whole_attention(source.config)
    return Provenance(
        source.model_hash if needs_weights else source.config_hash,
        source.tokenizer_hash,
        gistnet.content_hash,
        resolve_dtype(model.dtype, model.device, model.device_map),
        tree.block_size,
        tree.max_level,
        tree.absence,
        semantics="kept" if is_kept else "re_encoded",
        gist_positions=gistnet.num_anchors if isinstance(gistnet, AnchoredGists) else 1,
    )


def refuse_anchored(gists: GistConfig, what: str) -> None:
    """Raises ConfigError for gists of several positions, for `what` gives each its embedding to read."""
    if isinstance(load_gists(gists.source, gists.num_anchors), AnchoredGists):
        raise ConfigError(
            f"{what} takes gists of one embedding, and those of gists.source {gists.source!r} are positions "
            "of their span: give gists of embeddings, like mean"
        )


def check_anchored(provenance: Provenance, gists: GistConfig, config: CollectConfig) -> None:
    """Raises ConfigError for settings that mean nothing to gists of several positions."""
    if not isinstance(load_gists(gists.source, gists.num_anchors), AnchoredGists):
        return
    is_kept = provenance.semantics == "kept"
    refused = {
        "collect.estimator": config.estimator == "gradient" or (is_kept and config.estimator != "exact"),
        "collect.action_sampling": config.action_sampling == "screened",
        "collect.attention_mass": config.attention_mass,
    }
    if wrong := [key for key, is_wrong in refused.items() if is_wrong]:
        raise ConfigError(
            f"{' and '.join(wrong)}: gists.source {gists.source!r} is measured without gradients and "
            f"attention masses{', and exactly, at the cost of the horizon' if is_kept else ''}; leave the "
            "default"
        )


def no_snapshot(longest: Document) -> InputError:
    """Error for a corpus of which no document has room for a snapshot."""
    return InputError(
        f"no document is long enough for a snapshot: the longest, {longest.source}, has "
        f"{longest.num_tokens} tokens; lower collect.horizon, collect.cursors_per_trajectory or "
        "collect.protected_tail, or give longer documents"
    )
