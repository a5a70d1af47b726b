"""`mctrace gist evaluate`: a GistNet judged on held-out documents."""

from pathlib import Path
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
    Split,
    StoreUri,
    Threads,
    configure,
    console,
    paths_of,
)
from mctrace.errors import InputError


def gist_evaluate(
    gistnet: Annotated[
        str,
        typer.Argument(
            help="a folder, a shipped name, package.module:attribute, extract-M (the M tokens in a row that "
            "tell most) or kept-M (the model's own keys and values at M places)"
        ),
    ],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    split: Split = "test",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the table as one JSON object")] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="<gists>",
            help="other gists to judge on the same windows, such as mean (repeatable)",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows", help="JSONL file that keeps each document, from which an interrupted run goes on"
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="write evaluation.json and MODEL_CARD.md into the GistNet's folder")
    ] = False,
) -> None:
    """Judge gists on held-out documents.

    The frozen model's loss with the gists, with others beside them and with the same spans deleted, each less
    the loss in full context: by corpus, level, share and horizon, with bootstrap intervals over documents.
    The copy test repeats collapsed blocks after the text.
    """
    from mctrace.cli.display.gist_evaluation_tables import print_evaluation
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.gists.evaluation.gistnet_evaluation import evaluate_gistnet
    from mctrace.gists.evaluation.loss_changes import HeldOutDocument
    from mctrace.gists.evaluation.variants import load_judged
    from mctrace.gists.network.loading import gistnet_folder

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus), model__name=model,
        model__dtype=dtype, model__device=device,
    )  # fmt: skip
    folder = gistnet_folder(gistnet)
    if card and folder is None:
        raise InputError(f"--card: {gistnet} is no folder to write a card into")
    inputs = load_gist_inputs(settings, threads)
    anchors = settings.gist_evaluate.anchors
    judged, *others = (
        load_judged(name, inputs.model, settings.tree, anchors) for name in (gistnet, *(beside or ()))
    )
    messages = Console(stderr=True)  # the result alone goes to standard output
    documents = [
        HeldOutDocument(document.document_id, document.source.split("/")[0], document.tokens)
        for document in inputs.read_documents(messages)
        if document.placement.split == split
    ]
    evaluation = evaluate_gistnet(
        judged, gistnet, inputs.source, inputs.model, documents, split, dtype=inputs.dtype,
        tree=settings.tree, config=settings.gist_evaluate, progress=make_progress(messages),
        beside=others, rows=rows,
    )  # fmt: skip
    if card and folder is not None:
        evaluation.write_card(folder)
    if as_json:
        print_json(evaluation.answer)
    else:
        print_evaluation(evaluation.summary, split, console)
