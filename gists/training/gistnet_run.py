"""One training run of a GistNet, from tokens of a corpus to GistNets and metrics in a run folder."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.model_source import ModelSource
from mctrace.context.tree import TreeShape
from mctrace.gists.config import GistTrainConfig
from mctrace.gists.network.loading import load_gistnet
from mctrace.gists.network.transformer_gistnet import TransformerGistNet
from mctrace.gists.training.initialisation import base_layers, earlier_gistnet, fresh_gistnet
from mctrace.gists.training.rarity_pretraining import pretrain_picks
from mctrace.gists.training.training_loss import gist_loss, validation_loss
from mctrace.gists.training.windows import TrainingWindow, training_windows, validation_windows
from mctrace.progress import Progress
from mctrace.train.checkpoints.atomic_folder import write_folder
from mctrace.train.checkpoints.retention import keep_best_and_last
from mctrace.train.loop.telemetry import JsonlSink, TensorBoardSink, Value
from mctrace.train.loop.training_loop import TrainingResult, train_module
from mctrace.train.run_files import METRICS_FILE, TENSORBOARD_FOLDER

TRAINING = "training.json"
"""record of the training, in the folder of every GistNet"""


@dataclass(frozen=True)
class GistNetCorpus:
    """Documents a GistNet is trained and validated on."""

    tokens: Mapping[str, Sequence[npt.NDArray[np.int32]]]
    """split -> token ids [T] of each of its documents"""
    settings: Mapping[str, Any]
    """section `corpus` of the configuration, for the record"""


@dataclass(frozen=True)
class GistNetRun:
    """A GistNet about to be trained against the frozen base model."""

    config: GistTrainConfig
    tree: TreeShape
    model: FrozenCausalLM
    network: TransformerGistNet
    corpus: GistNetCorpus
    validation: Sequence[TrainingWindow]
    record: Mapping[str, Any]
    """description of the training that stays the same during it"""

    @classmethod
    def of(
        cls,
        config: GistTrainConfig,
        tree: TreeShape,
        source: ModelSource,
        model: FrozenCausalLM,
        corpus: GistNetCorpus,
        *,
        dtype: str,
        init: str | None,
    ) -> "GistNetRun":
        """Build the network, or load the GistNet `init` (a folder or a shipped name) to continue from.

        Raises InputError when no document is long enough for a window, ModelError when `init` does not fit.
        """
        network = _network(config, tree, model, init)
        validation = validation_windows(corpus.tokens["validation"], tree, config)
        training = corpus.tokens["train"]
        record = {
            "model": source.name,
            "model_hash": source.model_hash,
            "init": init,
            "init_hash": load_gistnet(init).content_hash if init else None,
            "corpus": corpus.settings,
            "tree": asdict(tree),
            "dtype": dtype,
            "training": asdict(config),
            "num_documents": len(training),
            "num_tokens": sum(len(tokens) for tokens in training),
            "machine": training_machine(model.device),
        }
        return cls(config, tree, model, network, corpus, validation, record)

    def train(self, out: Path, progress: Progress) -> TrainingResult:
        """Train on the train split, validate on the validation split, leave GistNet folders in `out`."""
        network, model, objective = self.network, self.model, self.config.objective
        batches = training_windows(self.corpus.tokens["train"], self.tree, self.config)
        network.to(model.device)
        started, curve = time.perf_counter(), _ValidationCurve()
        if self.record["init"] is None and self.config.rarity.num_steps:
            self._learn_rarity(progress)

        def write(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
            record = {
                **self.record,
                "step": step,
                "seconds": round(time.perf_counter() - started, 1),
                "validation": dict(metrics),
                "curve": curve.points,
            }
            write_folder(folder, partial(_fill, network, record))

        with JsonlSink(out / METRICS_FILE) as jsonl, TensorBoardSink(out / TENSORBOARD_FOLDER) as board:
            progress.start("training", self.config.optimiser.total_steps, "steps")
            result = train_module(
                network,
                batches,
                gist_loss(network, model, self.tree, objective),
                self.config,
                evaluate=lambda: validation_loss(network, model, self.tree, objective, self.validation),
                save=keep_best_and_last(out, write, self.config.keep_last),
                sinks=[jsonl, board, curve],
                progress=lambda step: progress.advance(1, f"loss {step.values['loss']:.4f}"),
            )
        progress.stop()
        return result

    def _learn_rarity(self, progress: Progress) -> None:
        rarity, tokens = self.config.rarity, self.corpus.tokens["train"]
        progress.start("learning rarity", rarity.num_steps, "steps")
        for step in pretrain_picks(self.network, self.model, tokens, rarity, self.config.seed):
            progress.advance(1, f"loss {step.values['loss']:.4f}")
        progress.stop()


def training_machine(device: torch.device) -> str:
    """What a GistNet is trained on, for its record."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{platform.machine()}, {gpu}{torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def _network(
    config: GistTrainConfig, tree: TreeShape, model: FrozenCausalLM, init: str | None
) -> TransformerGistNet:
    if init is not None:
        return earlier_gistnet(init, block_size=tree.block_size, embedding_dim=model.embedding_dim)
    sizes = config.network
    table = model.network.get_input_embeddings().weight
    return fresh_gistnet(
        sizes,
        block_size=tree.block_size,
        embedding_dim=model.embedding_dim,
        embedding_scale=float(table.float().std()),
        base_layers=base_layers(model, sizes.num_layers) if sizes.copy_layers else None,
        seed=config.seed,
    )


class _ValidationCurve:
    """Telemetry sink that keeps validation losses by step, for readers of a GistNet's folder alone."""

    def __init__(self) -> None:
        self.points: list[dict[str, Value]] = []

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        if split == "validation":
            self.points.append({"step": step, "loss": values["loss"]})


def _fill(network: TransformerGistNet, record: Mapping[str, Any], folder: Path) -> None:
    network.save_pretrained(folder, torch.float16)
    (folder / TRAINING).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
