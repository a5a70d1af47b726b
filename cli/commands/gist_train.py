"""`mctrace gist train`: a GistNet trained against the frozen base model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
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
)


def gist_train(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    init: Annotated[
        str | None, typer.Option("--init", help="GistNet to continue from, a folder or a shipped name")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="number of optimisation steps")] = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", help="folder for GistNets and metrics")] = Path(
        "runs/gistnet"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
) -> None:
    """Train a GistNet against the frozen base model.

    Spans of the training documents are replaced by gists; the base model's predictions behind them are held
    to those it makes in full context. The base model itself never changes.
    """
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.display.training import print_gistnet_ending
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.datasets.store.schemas import SPLITS
    from mctrace.gists.training.gistnet_run import GistNetCorpus, GistNetRun
    from mctrace.train.run_files import claim_run_folder

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus), corpus__limit=limit,
        model__name=model, model__dtype=dtype, model__device=device, gist_train__optimiser__total_steps=steps,
    )  # fmt: skip
    inputs = load_gist_inputs(settings, threads)
    documents = inputs.read_documents(console)
    tokens = {split: [d.tokens for d in documents if d.placement.split == split] for split in SPLITS}
    run = GistNetRun.of(
        settings.gist_train, settings.tree, inputs.source, inputs.model,
        GistNetCorpus(tokens, asdict(settings.corpus)), dtype=inputs.dtype, init=init,
    )  # fmt: skip
    claim_run_folder(out, settings.to_json(), overwrite=overwrite)
    result = run.train(out, make_progress(console))
    print_gistnet_ending(result, out, settings.gist_train.objective.match, console)
