"""`mctrace gist evaluate`: a GistNet judged on held-out documents."""

from typing import Annotated

import typer
from rich.console import Console

from mctrace.cli.shared_options import (
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Model,
    StoreUri,
    Threads,
    configure,
    console,
    paths_of,
)
from mctrace.errors import InputError
from mctrace.ranges import check_choice


def gist_evaluate(
    gistnet: Annotated[str, typer.Argument(help="a folder, a shipped name or package.module:attribute")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test")] = "test",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the table as one JSON object")] = False,
    card: Annotated[
        bool, typer.Option("--card", help="write evaluation.json and MODEL_CARD.md into the GistNet's folder")
    ] = False,
) -> None:
    """Judge a GistNet on held-out documents.

    The frozen model's loss with its gists, with mean-pooled ones and with the same spans deleted, each less
    the loss in full context: by corpus, level, share and horizon, with bootstrap intervals over documents.
    """
    from mctrace.cli.display.gist_evaluation_tables import print_evaluation
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.collect.measuring.bring_up import place_gistnet
    from mctrace.datasets.store.schemas import SPLITS
    from mctrace.gists.evaluation.gistnet_evaluation import evaluate_gistnet
    from mctrace.gists.evaluation.loss_changes import HeldOutDocument
    from mctrace.gists.network.loading import gistnet_folder, load_gistnet

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus), model__name=model,
        model__dtype=dtype, model__device=device,
    )  # fmt: skip
    check_choice("--split", split, SPLITS)
    loaded, folder = load_gistnet(gistnet), gistnet_folder(gistnet)
    if card and folder is None:
        raise InputError(f"--card: {gistnet} is no folder to write a card into")
    inputs = load_gist_inputs(settings, threads)
    place_gistnet(loaded, inputs.model, settings.tree.block_size)
    messages = Console(stderr=True)  # the result alone goes to standard output
    documents = [
        HeldOutDocument(document.document_id, document.source.split("/")[0], document.tokens)
        for document in inputs.read_documents(messages)
        if document.placement.split == split
    ]
    evaluation = evaluate_gistnet(
        loaded, gistnet, inputs.source, inputs.model, documents, split, dtype=inputs.dtype,
        tree=settings.tree, config=settings.gist_evaluate, progress=make_progress(messages),
    )  # fmt: skip
    if card and folder is not None:
        evaluation.write_card(folder)
    if as_json:
        print_json(evaluation.answer)
    else:
        print_evaluation(evaluation.summary, split, console)
