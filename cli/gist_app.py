"""`mctrace gist`: the commands that make and judge what stands for K children."""

from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.options import (
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Limit,
    Model,
    StoreUri,
    configure,
    console,
)

gist_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train and judge GistNets.")


@gist_app.command()
def train(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    init: Annotated[
        str | None, typer.Option("--init", help="GistNet to go on from, a folder or a shipped name")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="optimisation steps")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of torch")] = None,
    out: Annotated[Path, typer.Option("--out", help="folder for GistNets and metrics")] = Path(
        "runs/gistnet"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
) -> None:
    """Train a GistNet against the frozen base model.

    Spans of the training documents are replaced by gists; the base model's predictions behind them are held
    to those it makes in full context. The base model itself never changes.
    """
    from mctrace.cli.gist_command import train_gists

    settings = configure(
        config, store, set_, corpus__paths=tuple(corpus) if corpus else None, corpus__limit=limit,
        model__name=model, model__dtype=dtype, model__device=device, gist_train__optimiser__total_steps=steps,
    )  # fmt: skip
    train_gists(settings, init, out, threads=threads, overwrite=overwrite, console=console)


@gist_app.command()
def evaluate(
    gistnet: Annotated[str, typer.Argument(help="a folder, a shipped name or package.module:attribute")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test")] = "test",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of torch")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the table as one JSON object")] = False,
    card: Annotated[
        bool, typer.Option("--card", help="write evaluation.json and MODEL_CARD.md into the GistNet's folder")
    ] = False,
) -> None:
    """Judge a GistNet on held-out documents.

    The frozen model's loss with its gists, with mean-pooled ones and with the same spans deleted, each less
    the loss in full context: by corpus, level, share and horizon, with bootstrap intervals over documents.
    """
    from mctrace.cli.gist_command import evaluate_gists

    settings = configure(
        config, store, set_, corpus__paths=tuple(corpus) if corpus else None, model__name=model,
        model__dtype=dtype, model__device=device,
    )  # fmt: skip
    evaluate_gists(settings, gistnet, split, threads=threads, as_json=as_json, card=card, console=console)
