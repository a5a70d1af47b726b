"""`mctrace gist train`: a GistNet trained against the frozen base model."""

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mctrace.cli.presets import KeyValuePresetName, key_value_preset
from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Limit,
    Model,
    StoreUri,
    Threads,
    configure,
    console,
    paths_of,
    refuse_given,
)

if TYPE_CHECKING:
    from mctrace.cli.configuration import PipelineConfig
    from mctrace.cli.gist_inputs import GistInputs
    from mctrace.gists.training.gistnet_run import GistNetCorpus
    from mctrace.train.loop.training_loop import TrainingResult


class GistKind(StrEnum):
    """What stands for a span."""

    EMBEDDING = "embedding"
    KEY_VALUE = "key_value"


def gist_train(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    kind: Annotated[
        GistKind,
        typer.Option(
            "--kind",
            help="embedding: an input of the base model; key_value: its own keys and values at a few anchors "
            "of the span, adapted",
        ),
    ] = GistKind.EMBEDDING,
    preset: KeyValuePresetName = None,
    init: Annotated[
        str | None, typer.Option("--init", help="GistNet to continue from, a folder or a shipped name")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="number of optimisation steps")] = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", help="folder for GistNets and metrics")] = Path(
        "runs/gistnet"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run of --kind key_value in --out")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a GistNet against the frozen base model.

    Spans of the training documents give way to gists; the base model's predictions behind them are held to
    those it makes in full context. The base model itself never changes.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.training import gistnet_answer, print_gistnet_ending

    section = "key_value_train" if kind is GistKind.KEY_VALUE else "gist_train"
    settings = configure(
        config, store, set_, key_value_preset(preset),
        corpus__paths=paths_of(corpus), corpus__limit=limit, model__name=model, model__dtype=dtype,
        model__device=device, **{f"{section}__optimiser__total_steps": steps},
    )  # fmt: skip
    if kind is GistKind.KEY_VALUE:
        refuse_given({"--init": init}, "a key-value GistNet starts from the base model itself")
    else:
        refuse_given({"--preset": preset, "--resume": resume or None}, "they go with --kind key_value")
    messages = messages_console(console, as_json=as_json)
    if kind is GistKind.KEY_VALUE:
        match = "kl"
        result = _train_key_value(settings, threads, out, messages, overwrite=overwrite, resume=resume)
    else:
        match = settings.gist_train.objective.match
        result = _train_embedding(settings, threads, out, init, messages, overwrite=overwrite)
    if as_json:
        print_json(gistnet_answer(result, out, kind.value))
    print_gistnet_ending(result, out, match, messages)


def _train_embedding(
    settings: "PipelineConfig",
    threads: int | None,
    out: Path,
    init: str | None,
    messages: Console,
    *,
    overwrite: bool,
) -> "TrainingResult":
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.gists.training.gistnet_run import GistNetRun
    from mctrace.train.run_files import claim_run_folder

    inputs = load_gist_inputs(settings, threads)
    run = GistNetRun.of(
        settings.gist_train, settings.tree, inputs.source, inputs.model, _corpus(inputs, messages),
        dtype=inputs.dtype, init=init,
    )  # fmt: skip
    claim_run_folder(out, settings.to_json(), overwrite=overwrite)
    return run.train(out, make_progress(messages))


def _train_key_value(
    settings: "PipelineConfig",
    threads: int | None,
    out: Path,
    messages: Console,
    *,
    overwrite: bool,
    resume: bool,
) -> "TrainingResult":
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.cli.resumed_configuration import resumed_configuration
    from mctrace.gists.training.key_value_run import KeyValueRun
    from mctrace.train.checkpoints.atomic_folder import tidy_folders
    from mctrace.train.checkpoints.retention import step_folders
    from mctrace.train.run_files import claim_run_folder

    if resume:
        tidy_folders(out)
    stopped = step_folders(out)[-1:] if resume else []
    if stopped:
        settings = resumed_configuration(out, settings, messages, ("store", "key_value_train"))
    inputs = load_gist_inputs(settings, threads)
    run = KeyValueRun.of(
        settings.key_value_train, settings.tree, inputs.source, inputs.model, _corpus(inputs, messages),
        dtype=inputs.dtype, stopped=stopped[0] if stopped else None,
    )  # fmt: skip
    if not stopped:
        claim_run_folder(out, settings.to_json(), overwrite=overwrite or resume)
    return run.train(out, make_progress(messages), partial(messages.print, highlight=False))


def _corpus(inputs: "GistInputs", messages: Console) -> "GistNetCorpus":
    from mctrace.datasets.store.schemas import SPLITS
    from mctrace.gists.training.gistnet_run import GistNetCorpus

    documents = inputs.read_documents(messages)
    tokens = {split: [d.tokens for d in documents if d.placement.split == split] for split in SPLITS}
    return GistNetCorpus(tokens, asdict(inputs.config.corpus))
