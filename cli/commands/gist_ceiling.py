"""`mctrace gist ceiling`: what gists could tell at best, optimised directly for held-out documents."""

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


def gist_ceiling(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    split: Split = "test",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="steps of optimisation")] = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the ladder as one JSON object")] = False,
) -> None:
    """Measure how much gists could tell, with no encoder in between.

    For each rung of the ladder (tokens and vectors of a gist, where they act, what they are optimised for)
    the vectors of a window are optimised directly; then the loss of the tokens behind them is set against
    deletion. An encoder can do no better, so a rung that does not pay here need not be trained.
    """
    from dataclasses import asdict

    from mctrace.cli.display.gist_ceiling_table import print_ceilings
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.gist_inputs import load_gist_inputs
    from mctrace.gists.evaluation.ceiling_evaluation import evaluate_ceilings
    from mctrace.gists.evaluation.loss_changes import HeldOutDocument

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus), model__name=model,
        model__dtype=dtype, model__device=device, gist_ceiling__num_steps=steps,
    )  # fmt: skip
    inputs = load_gist_inputs(settings, threads)
    messages = Console(stderr=True)  # the result alone goes to standard output
    documents = [
        HeldOutDocument(document.document_id, document.source.split("/")[0], document.tokens)
        for document in inputs.read_documents(messages)
        if document.placement.split == split
    ]
    rows, num_documents = evaluate_ceilings(
        inputs.model, documents, split, settings.gist_ceiling, make_progress(messages)
    )
    if as_json:
        print_json({
            "model": inputs.source.name, "model_hash": inputs.source.model_hash, "dtype": inputs.dtype,
            "split": split, "num_documents": num_documents, "settings": asdict(settings.gist_ceiling),
            "rows": rows,
        })  # fmt: skip
    else:
        print_ceilings(rows, console)
