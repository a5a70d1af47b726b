"""One worker's job: a planned trajectory in, a written part out.

A worker holds the frozen model and the GistNet and knows where the store is; the same code runs inside a Ray
actor and in-process. It writes parts but never commits: that is the driver's.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mctrace.collect.base_model import load_base_model
from mctrace.collect.config import GistConfig, ModelConfig
from mctrace.collect.documents import Document
from mctrace.collect.evaluator import Baseline, DocumentTree, Effect, measure_baseline, measure_effects
from mctrace.collect.model_source import resolve_model
from mctrace.collect.passes import Work
from mctrace.collect.plan import PlannedTrajectory, Provenance, document_part_id, part_digest
from mctrace.context.errors import ModelError
from mctrace.datasets.location import Location
from mctrace.datasets.parts import Part, write_part
from mctrace.gists.gistnet import GistNet, build_tree
from mctrace.gists.loading import load_gistnet


@dataclass(frozen=True)
class RunContext:
    """What every worker of a run is told: plain values, so that they travel."""

    run_id: str
    store_uri: str
    model: ModelConfig
    gists: GistConfig
    provenance: Provenance


@dataclass(frozen=True)
class WorkItem:
    """One trajectory to measure. `needs_document`: its tokens and gists are not in the store yet."""

    document: Document
    planned: PlannedTrajectory
    needs_document: bool


@dataclass(frozen=True)
class Finished:
    """A measured item: parts written but not yet committed, and what it took."""

    item: WorkItem
    parts: tuple[Part, ...]
    num_effects: int
    seconds: float


@dataclass(frozen=True)
class ModelSize:
    """What FLOP counts need: parameters per entry in the layers and the head, layers times width."""

    num_layer_parameters: int
    num_head_parameters: int
    attention_width: int

    def flops(self, work: Work) -> float:
        """Multiply-adds counted as two: 2 P per entry, 4 * layers * width per attended pair."""
        return (
            2.0 * self.num_layer_parameters * work.num_recomputed
            + 2.0 * self.num_head_parameters * work.num_read
            + 4.0 * self.attention_width * work.num_pairs
        )


class Worker:
    """Model, GistNet and store of one process. Raises ModelError when they do not fit each other."""

    def __init__(self, context: RunContext, num_threads: int | None = None) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self._context = context
        self._location = Location.of(context.store_uri)
        source = resolve_model(context.model.name, context.model.revision)
        if source.model_hash != context.provenance.model_hash:
            raise ModelError(f"model {context.model.name!r} has other weights here than where it was planned")
        self._model = load_base_model(
            source, context.model.dtype, context.model.device, context.model.device_map
        )
        self._gistnet = load_checked_gistnet(
            context.gists.source, context.provenance, self._model.embedding_dim
        )
        if isinstance(self._gistnet, torch.nn.Module):
            self._gistnet.to(self._model.device)
        self._tree: tuple[str, DocumentTree] | None = None

    def model_size(self) -> ModelSize:
        config = self._model.network.config.get_text_config()
        return ModelSize(
            self._model.num_layer_parameters,
            self._model.num_head_parameters,
            config.num_hidden_layers * config.hidden_size,
        )

    def write_embeddings(self) -> Part:
        """The base model's embedding table as a part: stored once, so that no snapshot stores embeddings."""
        # Through the model, not from its weights: some architectures scale what they look up.
        vocabulary_size = len(self._model.network.get_input_embeddings().weight)
        table = self._model.embed(torch.arange(vocabulary_size)).float().cpu().numpy()
        provenance = self._context.provenance
        row = {
            "model_hash": provenance.model_hash,
            "dtype": provenance.dtype,
            "vocabulary_size": vocabulary_size,
            "embedding_dim": table.shape[1],
        }
        return write_part(
            self._location,
            part_id=embeddings_part_id(provenance),
            kind="embeddings",
            run_id=self._context.run_id,
            tables={"embeddings": [row]},
            arrays={"embedding_table": table},
        )

    def measure(self, item: WorkItem) -> Finished:
        """Measures the item's trajectory and writes its part, with the document's where it is missing."""
        tree = self._document_tree(item.document)
        baseline, effects, seconds = self._run(item, tree)
        parts = [self._write_trajectory(item, baseline.nll_H.cpu().numpy(), effects, seconds)]
        if item.needs_document:
            parts.insert(0, self._write_document(item.document, tree))
        return Finished(item, tuple(parts), len(effects), seconds)

    def time(self, item: WorkItem) -> float:
        """Seconds that measuring the item takes here; nothing is kept."""
        return self._run(item, self._document_tree(item.document))[2]

    def _run(self, item: WorkItem, tree: DocumentTree) -> tuple[Baseline, list[Effect], float]:
        started = time.perf_counter()
        trajectory = item.planned.trajectory
        baseline = measure_baseline(self._model, tree, trajectory)
        if not torch.isfinite(baseline.nll_H).all():
            raise ModelError(
                f"the base model's loss on {item.document.source} is not finite in "
                f"{self._context.model.dtype}: try model.dtype = float32"
            )
        actions = [sampled.action for sampled in item.planned.actions]
        effects = list(measure_effects(self._model, tree, trajectory, actions, baseline))
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)  # work is queued; the clock would stop too soon
        return baseline, effects, time.perf_counter() - started

    def _document_tree(self, document: Document) -> DocumentTree:
        """The document's embeddings and gists; the last one is kept, since trajectories come by document."""
        if self._tree is None or self._tree[0] != document.document_id:
            tokens_T = torch.from_numpy(document.tokens.astype(np.int64))
            embeddings = build_tree(self._gistnet, self._model.embed(tokens_T), self._context.provenance.tree)
            self._tree = (document.document_id, DocumentTree(tokens_T, embeddings))
        return self._tree[1]

    def _write_document(self, document: Document, tree: DocumentTree) -> Part:
        arrays: dict[str, npt.NDArray[Any]] = {"tokens": document.tokens}
        for level, gists_Md in enumerate(tree.embeddings[1:], start=1):
            arrays[f"gists/lod{level}"] = gists_Md.float().cpu().numpy()
        provenance = self._context.provenance
        row = {
            "document_id": document.document_id,
            "source": document.source,
            "tokenizer_hash": document.tokenizer_hash,
            "gist_hash": provenance.gist_hash,
            "model_hash": provenance.model_hash,
            "dtype": provenance.dtype,
            "num_tokens": document.num_tokens,
            "block_size": provenance.tree.block_size,
            "max_level": provenance.tree.max_level,
            "split_group": document.placement.split_group,
            "split": document.placement.split,
            "minhash": document.placement.minhash.tolist(),
        }
        return write_part(
            self._location,
            part_id=document_part_id(document.document_id, provenance),
            kind="document",
            run_id=self._context.run_id,
            tables={"documents": [row]},
            arrays=arrays,
        )

    def _write_trajectory(
        self,
        item: WorkItem,
        baseline_nll_H: npt.NDArray[np.float32],
        effects: Sequence[Effect],
        seconds: float,
    ) -> Part:
        return write_part(
            self._location,
            part_id=item.planned.part_id,
            kind="trajectory",
            run_id=self._context.run_id,
            tables={
                "trajectories": [self._trajectory_row(item.planned, baseline_nll_H, seconds)],
                "effects": _effect_rows(item.planned, effects),
            },
        )

    def _trajectory_row(
        self, planned: PlannedTrajectory, baseline_nll_H: npt.NDArray[np.float32], seconds: float
    ) -> Mapping[str, object]:
        provenance = self._context.provenance
        return {
            "trajectory_id": planned.part_id,
            "run_id": self._context.run_id,
            "document_id": planned.document_id,
            "policy": planned.policy,
            "variant_group": planned.variant_group,
            "model_hash": provenance.model_hash,
            "tokenizer_hash": provenance.tokenizer_hash,
            "gist_hash": provenance.gist_hash,
            "dtype": provenance.dtype,
            "block_size": provenance.tree.block_size,
            "max_level": provenance.tree.max_level,
            "protected_tail": planned.protected_tail,
            "start": planned.trajectory.head.start,
            "levels": planned.trajectory.head.levels.tolist(),
            "cursors": list(planned.trajectory.cursors),
            "horizon": planned.trajectory.horizon,
            "baseline_nll": baseline_nll_H.tolist(),
            "num_legal_actions": planned.num_legal_actions,
            "num_tokens_run": planned.work.num_recomputed,
            "seconds": seconds,
        }


def _effect_rows(planned: PlannedTrajectory, effects: Sequence[Effect]) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for sampled, effect in zip(planned.actions, effects, strict=True):
        assert sampled.action == effect.action
        # A NaN in Parquet gives wrong comparisons later; a null with a reason does not.
        is_finite = bool(torch.isfinite(effect.delta_nll_H).all())
        rows.append(
            {
                "trajectory_id": planned.part_id,
                "action": effect.action.kind,
                "node_level": effect.action.node.level,
                "node_index": effect.action.node.index,
                "entry_level": effect.action.entry_level,
                "first_token": effect.first_token,
                "delta_nll": effect.delta_nll_H.cpu().tolist() if is_finite else None,
                "estimator": "exact",
                "estimator_window": None,
                "inclusion_probability": sampled.inclusion_probability,
                "status": "ok" if is_finite else "not finite",
            }
        )
    return rows


def load_checked_gistnet(source: str, provenance: Provenance, embedding_dim: int) -> GistNet:
    """The GistNet of a run. Raises ModelError when it does not fit or is not the one that was planned."""
    gistnet = load_gistnet(source)
    gistnet.check_fits(provenance.tree.block_size, embedding_dim)
    if gistnet.content_hash != provenance.gist_hash:
        raise ModelError(f"the GistNet {source!r} is another one here than where it was planned")
    return gistnet


def embeddings_part_id(provenance: Provenance) -> str:
    """A model's embedding table is kept once per dtype."""
    return part_digest({"embeddings": provenance.model_hash, "dtype": provenance.dtype})
