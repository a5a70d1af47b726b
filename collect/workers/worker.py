"""One worker's job: a unit of work in, a written part out.

A worker holds the frozen model and the GistNet and knows where the store is; the same code runs inside a Ray
actor and in-process. It writes parts and leaves committing to the driver.
"""

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import ModelSize
from mctrace.base_model.model_source import resolve_model
from mctrace.collect.cluster.metrics import observe, peak_flops
from mctrace.collect.cluster.run_logs import LogConfig
from mctrace.collect.config import GistConfig, ModelConfig
from mctrace.collect.corpus.documents import Document
from mctrace.collect.measuring.bring_up import bring_up
from mctrace.collect.measuring.estimator_agreement import LabelPair
from mctrace.collect.measuring.machine import device_name, software_versions
from mctrace.collect.measuring.unit_measurement import (
    Effect,
    JointEffect,
    NoiseFloor,
    UnitMeasurement,
    audit_pairs,
    measure_noise,
    measure_unit,
)
from mctrace.collect.measuring.worker_probe import Probe, measure_probe
from mctrace.collect.planning.gradient_passes import stretch_lengths
from mctrace.collect.planning.lensnet_policy import embed_document
from mctrace.collect.planning.part_ids import document_part_id, embeddings_part_id
from mctrace.collect.planning.work_units import (
    LabelledTrajectory,
    PlannedTrajectory,
    PreferenceVariant,
    RuntimeLog,
    WorkUnit,
)
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory
from mctrace.datasets.store.cursor_means import mean_columns
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.provenance import Provenance
from mctrace.gists.network.anchored_gists import AnchoredGists

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """Settings that every worker of a run receives: plain values, so that they can be sent."""

    run_id: str
    store_uri: str
    model: ModelConfig
    gists: GistConfig
    provenance: Provenance
    batch_tokens: int | Literal["auto"] = "auto"
    logs: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class WorkItem:
    """One unit to measure. `needs_document`: its tokens and gists are not in the store yet."""

    document: Document
    unit: WorkUnit
    needs_document: bool = False
    purpose: Literal["keep", "compare", "noise"] = "keep"
    """keep writes parts; compare only gives `pairs`, noise only `noise_floor`"""


@dataclass(frozen=True)
class Finished:
    """Measured item: parts written but not yet committed, with counts and seconds."""

    item: WorkItem
    parts: tuple[Part, ...] = ()
    num_effects: int = 0
    num_tokens_run: int = 0
    seconds: float = 0.0
    is_finite: bool = True
    pairs: tuple[LabelPair, ...] = ()
    """audited actions, both ways"""
    noise_floor: NoiseFloor | None = None


class Worker:
    """Model, GistNet and store of one process. Raises ModelError when they do not fit each other."""

    def __init__(self, context: RunContext, num_threads: int | None = None) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self._context = context
        self._location = Location.of(context.store_uri)
        source = resolve_model(context.model.name, context.model.revision)
        loaded = bring_up(source, context.model, context.gists, context.provenance, context.batch_tokens)
        self._model, self._gistnet, self._batching = loaded.model, loaded.gistnet, loaded.batching
        self._anchored = self._gistnet if isinstance(self._gistnet, AnchoredGists) else None
        self._tree: tuple[str, DocumentTree] | None = None
        self._machine = {
            "host": platform.node(),
            "device": device_name(self._model.device),
            "software": json.dumps(software_versions()),
        }

    def model_size(self) -> ModelSize:
        return self._model.size

    def batch_tokens(self) -> int:
        """Entries that run at once here."""
        return self._batching.tokens

    def gpus(self) -> tuple[str, ...]:
        """Unique ids of the GPUs that hold the model; none on a CPU."""
        return tuple(str(torch.cuda.get_device_properties(device).uuid) for device in self._devices())

    def probe(self) -> Probe:
        """This worker's values for the seeded probe, to compare with other workers'."""
        provenance = self._context.provenance
        return measure_probe(self._model, self._gistnet, provenance.tokenizer_hash, provenance.block_size)

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
        """Measure the item's unit and write its part, with the document's where it is missing."""
        tree, started = self._document_tree(item.document), time.perf_counter()
        unit = item.unit.without_caches()
        if item.purpose == "noise":
            return Finished(
                item, noise_floor=measure_noise(self._model, tree, unit, self._batching, self._anchored)
            )
        measurement = measure_unit(self._model, tree, unit, self._batching, self._anchored)
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)  # work is queued; the clock would stop too soon
        seconds = time.perf_counter() - started
        parts: list[Part] = []
        if item.purpose == "keep":
            parts.append(self._write_unit(unit, measurement, seconds))
            if item.needs_document:
                parts.insert(0, self._write_document(item.document, tree))
        self._observe(measurement, seconds)
        _log.info(
            "measured %s", item.document.source,
            extra={
                "run_id": self._context.run_id, "part_id": unit.part_id, "kind": unit.kind,
                "purpose": item.purpose, "seconds": seconds, "num_effects": len(measurement.effects),
                "num_tokens_run": measurement.work.num_recomputed,
            },
        )  # fmt: skip
        return Finished(
            item,
            tuple(parts),
            len(measurement.effects),
            measurement.work.num_recomputed,
            seconds,
            measurement.is_finite,
            tuple(audit_pairs(unit, measurement)),
        )

    def _observe(self, measurement: UnitMeasurement, seconds: float) -> None:
        flops, device = self._model.size.flops(measurement.work) / seconds, self._model.device
        observe("items_done")
        observe("item_seconds", seconds)
        observe("effects", len(measurement.effects))
        observe("tokens_run", measurement.work.num_recomputed)
        observe("model_flops_per_second", flops)
        if device.type == "cuda":
            observe("gpu_memory_bytes", sum(map(torch.cuda.memory_reserved, self._devices())))
            if peak := peak_flops(torch.cuda.get_device_name(device)):
                observe("mfu", flops / (peak * len(self._devices())))

    def _devices(self) -> list[torch.device]:
        """GPUs that hold the model."""
        devices = {parameter.device for parameter in self._model.network.parameters()}
        return sorted((device for device in devices if device.type == "cuda"), key=str)

    def _document_tree(self, document: Document) -> DocumentTree:
        """The document's embeddings and gists; the last one is kept, since trajectories come by document."""
        if self._tree is None or self._tree[0] != document.document_id:
            tree = embed_document(self._model, self._gistnet, document, self._context.provenance.tree)
            self._tree = (document.document_id, tree)
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
            "metadata": document.metadata,
        }
        return write_part(
            self._location,
            part_id=document_part_id(document.document_id, provenance),
            kind="document",
            run_id=self._context.run_id,
            tables={"documents": [row]},
            arrays=arrays,
        )

    def _write_unit(self, unit: WorkUnit, measurement: UnitMeasurement, seconds: float) -> Part:
        tables: dict[str, Sequence[Mapping[str, object]]] = {
            "effects": [_effect_row(unit, effect) for effect in measurement.effects],
            "joint_effects": [_joint_row(unit, joint) for joint in measurement.joints],
        }
        if isinstance(unit, PlannedTrajectory):
            tables["trajectories"] = [self._trajectory_row(unit, measurement, seconds)]
        elif (mass_N := measurement.baseline.attention_mass_N) is not None:
            tables["attention"] = [
                {"trajectory_id": unit.trajectory_id, **_nats_columns("attention_mass", mass_N)}
            ]
        return write_part(
            self._location,
            part_id=unit.part_id,
            kind=unit.kind,
            run_id=self._context.run_id,
            tables={name: rows for name, rows in tables.items() if rows or name == "effects"},
        )

    def _trajectory_row(
        self, planned: PlannedTrajectory, measurement: UnitMeasurement, seconds: float
    ) -> Mapping[str, object]:
        provenance, ended_at = self._context.provenance, datetime.now(UTC)
        return {
            "trajectory_id": planned.part_id,
            "run_id": self._context.run_id,
            "document_id": planned.document_id,
            "policy": planned.policy,
            "variant_group": planned.variant_group if isinstance(planned, PreferenceVariant) else None,
            "model_hash": provenance.model_hash,
            "tokenizer_hash": provenance.tokenizer_hash,
            "gist_hash": provenance.gist_hash,
            "dtype": provenance.dtype,
            "block_size": provenance.tree.block_size,
            "max_level": provenance.tree.max_level,
            **provenance.reading_columns,
            "absence": planned.trajectory.head.tree.absence,
            "protected_tail": planned.protected_tail,
            "start": planned.trajectory.head.start,
            "levels": planned.trajectory.head.levels.tolist(),
            "cursors": list(planned.trajectory.cursors),
            "horizon": planned.trajectory.horizon,
            **_nats_columns("baseline_nll", measurement.baseline.nll_H, "baseline_status"),
            "num_legal_actions": planned.num_legal_actions if isinstance(planned, LabelledTrajectory) else 0,
            "num_tokens_run": measurement.work.num_recomputed,
            "seconds": seconds,
            **_log_columns(planned),
            **self._machine,
            "started_at": ended_at - timedelta(seconds=seconds),
            "ended_at": ended_at,
        }


def _log_columns(planned: PlannedTrajectory) -> Mapping[str, object]:
    """What the runtime that showed the map noted; NULL for maps of our own."""
    log = planned.log if isinstance(planned, LabelledTrajectory) else RuntimeLog()
    taken = log.actions_taken
    rows = (
        None
        if taken is None
        else [
            {"action": one.kind, "node_level": one.node.level, "node_index": one.node.index} for one in taken
        ]
    )
    return {"logged_at": log.logged_at, "actions_taken": rows}


def _effect_row(unit: WorkUnit, effect: Effect) -> Mapping[str, object]:
    edit, sampled, estimator = effect.planned.edit, effect.planned.sampled, effect.planned.estimator
    action, by_gradient = sampled.action, effect.planned.estimator.name == "gradient"
    stretches = stretch_lengths(unit.trajectory, edit, estimator.segment) if by_gradient else None
    return {
        "trajectory_id": unit.trajectory_id,
        **_action_columns(action),
        "action": effect.planned.kind,
        "entry_level": action.entry_level,
        "first_token": edit.first_token,
        **_nats_columns("delta_nll", effect.delta_nll_H),
        **_cursor_columns(unit.trajectory, edit.first_token, effect.delta_nll_H),
        # A stretch has one value: how much its tokens differ is not known.
        **({"cursor_stderr": None} if by_gradient else {}),
        "estimator": estimator.name,
        "estimator_window": estimator.window,
        "gradient_stretches": stretches,
        "inclusion_probability": sampled.inclusion_probability,
        "first_entry": edit.first_entry,
        "num_entries": edit.end_entry - edit.first_entry,
    }


def _joint_row(unit: WorkUnit, joint: JointEffect) -> Mapping[str, object]:
    return {
        "trajectory_id": unit.trajectory_id,
        "actions": [_action_columns(action) for action in joint.actions],
        "first_token": joint.edit.first_token,
        **_nats_columns("sum_of_singles", joint.sum_of_singles_H),
        **_nats_columns("delta_nll", joint.delta_nll_H),
    }


def _action_columns(action: Action) -> dict[str, object]:
    return {"action": action.kind, "node_level": action.node.level, "node_index": action.node.index}


def _nats_columns(name: str, values: Tensor, status: str = "status") -> dict[str, object]:
    """A NaN in Parquet gives wrong comparisons later; a null with a status does not."""
    if torch.isfinite(values).all():
        return {name: values.cpu().tolist(), status: "ok"}
    return {name: None, status: "not finite"}


def _cursor_columns(trajectory: Trajectory, first_token: int, delta_nll_H: Tensor) -> dict[str, object]:
    """Mean per cursor, which labels at the collected horizon read; empty where the effect is not finite."""
    if not torch.isfinite(delta_nll_H).all():
        return {}
    values = delta_nll_H.float().cpu().numpy()
    return {**mean_columns(values, first_token, trajectory.cursors, trajectory.horizon)}
