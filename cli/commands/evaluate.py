"""`mctrace evaluate`: checkpoints judged by the labels of a store, or with --closed-loop by their edits."""

from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    Assignments,
    Config,
    Corpus,
    Dataset,
    DeviceName,
    Dtype,
    Mixture,
    Model,
    SkipDamaged,
    Split,
    StoreUri,
    Version,
    Where,
    configure,
    console,
    paths_of,
    refuse_given,
)
from mctrace.errors import InputError


def evaluate(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="checkpoint folders, e.g. runs/lensnet/best")
    ] = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    split: Split = "test",
    where: Where = None,
    closed_loop: Annotated[
        bool, typer.Option("--closed-loop", help="let checkpoints edit working contexts of the base model")
    ] = False,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for results of --closed-loop [the first run's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    mix: Mixture = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Judge checkpoints on held-out documents.

    Compares their scores with measured labels, beside simple baselines, with bootstrap intervals over
    documents; also writes evaluation.json into the first checkpoint's run folder. With --closed-loop each
    checkpoint keeps a working context within a budget while a document streams by, and the base model's loss
    on the following tokens is compared with other policies and with hindsight; an interrupted run resumes.
    """
    settings = configure(
        config, store, set_, train__where=where, store__mix=mix, store__skip_damaged=skip_damaged,
        corpus__paths=paths_of(corpus), model__name=model, model__dtype=dtype, model__device=device,
    )  # fmt: skip
    if closed_loop:
        refuse_given(
            {"--version": version, "--dataset": dataset, "--where": where, "--mix": mix,
             "--skip-damaged": skip_damaged},
            "only for judging by the store's labels, which --closed-loop does not read; leave it out",
        )  # fmt: skip
        from mctrace.cli.commands.evaluate_closed_loop import evaluate_closed_loop

        evaluate_closed_loop(settings, checkpoints or [], split, out, console, as_json=as_json)
        return
    refuse_given(
        {"--corpus": corpus, "--model": model, "--dtype": dtype, "--device": device, "--out": out},
        "only for --closed-loop; without it the store's labels judge, and no base model runs",
    )
    from mctrace.cli.display.checkpoint_evaluation import print_evaluation, print_mixture
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.store_version import open_version
    from mctrace.train.checkpoint_evaluation import evaluate_checkpoints

    if not checkpoints:
        raise InputError("no checkpoint to judge: give folders that 'mctrace train' wrote, or --closed-loop")
    at = open_version(settings.store, version, dataset)
    uri, mixed = settings.store.uri, settings.store.mix
    evaluation = evaluate_checkpoints(settings.train, at, uri, checkpoints, split, mixed)
    print_mixture(evaluation)
    if as_json:
        print_json(evaluation.answer)
    else:
        print_evaluation(evaluation, console)
    evaluation.write(checkpoints[0].parent)
