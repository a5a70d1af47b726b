"""`mctrace gist train` and `mctrace gist evaluate`: a GistNet from corpus and base model, and its worth."""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.model_source import ModelSource, resolve_model
from mctrace.cli.collect_command import print_left_out, read_run_documents
from mctrace.cli.config import PipelineConfig
from mctrace.cli.gist_tables import print_judgement
from mctrace.cli.progress import make_progress
from mctrace.cli.train_command import claim_run_folder
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document
from mctrace.collect.measuring.bring_up import load_configured_model, place_gistnet
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import find_store
from mctrace.errors import InputError
from mctrace.gists.evaluation.evaluation_summary import summarise_evaluation
from mctrace.gists.evaluation.loss_changes import Diversity, HeldOutDocument, LossChange, evaluate_document
from mctrace.gists.evaluation.model_card import EVALUATION, TRAINING, write_card
from mctrace.gists.network.gistnet import GistNet, MeanGistNet
from mctrace.gists.network.loading import gistnet_folder, load_gistnet
from mctrace.gists.network.transformer_gistnet import TransformerGistNet
from mctrace.gists.training.initialisation import base_layers, earlier_gistnet, fresh_gistnet
from mctrace.gists.training.rarity_pretraining import pretrain_picks
from mctrace.gists.training.training_loss import gist_loss, validation_loss
from mctrace.gists.training.windows import training_windows, validation_windows
from mctrace.ranges import check_choice
from mctrace.train.checkpoints.atomic_folder import write_folder
from mctrace.train.checkpoints.retention import keep_best_and_last
from mctrace.train.loop.telemetry import JsonlSink, TensorBoardSink, Value
from mctrace.train.loop.training_loop import TrainingResult, train_module
from mctrace.train.run_files import METRICS_FILE, TENSORBOARD_FOLDER


def train_gists(
    config: PipelineConfig,
    init: str | None,
    out: Path,
    *,
    threads: int | None,
    overwrite: bool,
    console: Console,
) -> None:
    """Trains on the train split, validates on the validation split, leaves GistNet folders in `out`."""
    settings = config.gist_train
    source, model = _load_model(config, threads)
    documents = _documents(config, source, console)
    network = _start(config, model, init)
    tokens = {
        split: [document.tokens for document in documents if document.placement.split == split]
        for split in SPLITS
    }
    fixed = validation_windows(tokens["validation"], config.tree, settings)
    batches = training_windows(tokens["train"], config.tree, settings)
    about = _about(config, source, documents, init)
    claim_run_folder(out, config, overwrite=overwrite)
    network.to(model.device)
    progress = make_progress(console)
    started = time.perf_counter()
    if init is None and settings.rarity.num_steps:
        progress.start("learning rarity", settings.rarity.num_steps, "steps")
        for step in pretrain_picks(network, model, tokens["train"], settings.rarity, settings.seed):
            progress.advance(1, f"loss {step.values['loss']:.4f}")
        progress.stop()

    curve = _Curve()

    def write(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        seconds = round(time.perf_counter() - started, 1)
        record = {
            **about,
            "step": step,
            "seconds": seconds,
            "validation": dict(metrics),
            "curve": curve.points,
        }
        write_folder(folder, partial(_fill, network, record))

    with JsonlSink(out / METRICS_FILE) as jsonl, TensorBoardSink(out / TENSORBOARD_FOLDER) as board:
        progress.start("training", settings.optimiser.total_steps, "steps")
        result = train_module(
            network,
            batches,
            gist_loss(network, model, config.tree, settings.objective),
            settings,
            evaluate=lambda: validation_loss(network, model, config.tree, settings.objective, fixed),
            save=keep_best_and_last(out, write, settings.keep_last),
            sinks=[jsonl, board, curve],
            progress=lambda step: progress.advance(1, f"loss {step.values['loss']:.4f}"),
        )
    progress.stop()
    _say_how_it_ended(result, out, settings.objective.match, console)


def evaluate_gists(
    config: PipelineConfig,
    source: str,
    split: str,
    *,
    threads: int | None,
    as_json: bool,
    card: bool,
    console: Console,
) -> None:
    """Judges a GistNet beside the mean and deletion on one split; with `card` leaves it in its folder."""
    check_choice("--split", split, SPLITS)
    gistnet = load_gistnet(source)
    folder = gistnet_folder(source)
    if card and folder is None:
        raise InputError(f"--card: {source} is no folder to write a card into")
    model_source, model = _load_model(config, threads)
    place_gistnet(gistnet, model, config.tree.block_size)
    messages = Console(stderr=True)  # the judgement alone goes to standard output
    held_out = _held_out(_documents(config, model_source, messages), split, config)
    judgement = summarise_evaluation(
        _measure(config, model, gistnet, held_out, messages), config.gist_evaluate
    )
    answer = {
        "gistnet": source,
        "gist_hash": gistnet.content_hash,
        "model": model_source.name,
        "model_hash": model_source.model_hash,
        "dtype": config.model.dtype,
        "block_size": config.tree.block_size,
        "split": split,
        "num_documents": {corpus: sum(d.corpus == corpus for d in held_out) for corpus in _corpora(held_out)},
        "settings": asdict(config.gist_evaluate),
        **judgement.to_json(),
    }
    if card and folder is not None:
        (folder / EVALUATION).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
        write_card(folder, judgement, answer)
    if as_json:
        print(json.dumps(answer))
    else:
        print_judgement(judgement, split, console)


def _load_model(config: PipelineConfig, threads: int | None) -> tuple[ModelSource, FrozenCausalLM]:
    if threads:
        torch.set_num_threads(threads)
    source = resolve_model(config.model.name, config.model.revision)
    return source, load_configured_model(source, config.model)


def _documents(config: PipelineConfig, source: ModelSource, console: Console) -> list[Document]:
    """The corpus, with the splits of the store where that knows its documents already."""
    store = find_store(config.store.uri)
    skipped = Skipped(config.corpus.strict)
    documents = read_run_documents(config, store, source, skipped, make_progress(console))
    print_left_out(skipped, console)
    return documents


def _start(config: PipelineConfig, model: FrozenCausalLM, init: str | None) -> TransformerGistNet:
    if init is not None:
        return earlier_gistnet(init, block_size=config.tree.block_size, embedding_dim=model.embedding_dim)
    sizes = config.gist_train.network
    table = model.network.get_input_embeddings().weight
    return fresh_gistnet(
        sizes,
        block_size=config.tree.block_size,
        embedding_dim=model.embedding_dim,
        embedding_scale=float(table.float().std()),
        base_layers=base_layers(model, sizes.num_layers) if sizes.copy_layers else None,
        seed=config.gist_train.seed,
    )


def _about(
    config: PipelineConfig, source: ModelSource, documents: Sequence[Document], init: str | None
) -> dict[str, Any]:
    """What a GistNet's folder says of its training, less what changes during it."""
    trained_on = [document for document in documents if document.placement.split == "train"]
    return {
        "model": source.name,
        "model_hash": source.model_hash,
        "init": init,
        "init_hash": load_gistnet(init).content_hash if init else None,
        "corpus": asdict(config.corpus),
        "tree": asdict(config.tree),
        "dtype": config.model.dtype,
        "training": asdict(config.gist_train),
        "num_documents": len(trained_on),
        "num_tokens": sum(document.num_tokens for document in trained_on),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}",
    }


class _Curve:
    """Validation losses by step, for whoever looks at a GistNet's folder alone."""

    def __init__(self) -> None:
        self.points: list[dict[str, Value]] = []

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        if split == "validation":
            self.points.append({"step": step, "loss": values["loss"]})


def _fill(network: TransformerGistNet, record: Mapping[str, Any], folder: Path) -> None:
    network.save_pretrained(folder, torch.float16)
    (folder / TRAINING).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _held_out(documents: Sequence[Document], split: str, config: PipelineConfig) -> list[HeldOutDocument]:
    """The split's documents that are long enough, at most so many of each corpus, in the corpus's order."""
    settings = config.gist_evaluate
    shortest = settings.context_tokens + max(settings.horizons)
    kept: dict[str, list[HeldOutDocument]] = {}
    for document in documents:
        if document.placement.split == split and document.num_tokens >= shortest:
            corpus = document.source.split("/")[0]
            found = kept.setdefault(corpus, [])
            if len(found) < settings.documents_per_corpus:
                found.append(HeldOutDocument(document.document_id, corpus, document.tokens))
    if not kept:
        raise InputError(
            f"no document of the {split} split has {shortest} tokens, the context and its horizon"
        )
    return [document for found in kept.values() for document in found]


def _measure(
    config: PipelineConfig,
    model: FrozenCausalLM,
    gistnet: GistNet,
    held_out: Sequence[HeldOutDocument],
    console: Console,
) -> Iterator[LossChange | Diversity]:
    gistnets: dict[str, GistNet] = {"mean": MeanGistNet()}
    if gistnet.content_hash != "mean":
        gistnets["trained"] = gistnet
    progress = make_progress(console)
    progress.start("evaluating", len(held_out), "documents")
    for document in held_out:
        yield from evaluate_document(model, gistnets, document, config.tree, config.gist_evaluate)
        progress.advance(1)
    progress.stop()


def _corpora(held_out: Sequence[HeldOutDocument]) -> list[str]:
    return sorted({document.corpus for document in held_out})


def _say_how_it_ended(result: TrainingResult, out: Path, match: str, console: Console) -> None:
    values = ", ".join(f"{name} {value:.4g}" for name, value in result.best.items())
    console.print(
        f"Best at step {result.best_step} of {result.num_steps}: {values} on validation ({match}, nats per "
        f"token)\nGistNet {out / 'best'}; judge it with 'mctrace gist evaluate {out / 'best'}'",
        highlight=False,
    )
