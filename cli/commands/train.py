"""`mctrace train`: a LensNet trained from a store alone."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mctrace.cli.presets import TrainPresetNames, train_presets
from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Dataset,
    DeviceName,
    Mixture,
    SkipDamaged,
    StoreUri,
    Version,
    Where,
    configure,
    console,
)
from mctrace.train.networks.config import NetworkName
from mctrace.train.objectives.config import ObjectiveName


def train(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    out: Annotated[Path, typer.Option("--out", help="folder for checkpoints and metrics")] = Path(
        "runs/lensnet"
    ),
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="value_and_price, value, priced, literal (as the specification has it), or a .sql file",
        ),
    ] = None,
    preset: TrainPresetNames = None,
    network: Annotated[NetworkName | None, typer.Option("--network", help="kind of LensNet")] = None,
    objective: Annotated[
        ObjectiveName | None, typer.Option("--objective", help="labels, pairs of variants, or both")
    ] = None,
    where: Where = None,
    device: DeviceName = None,
    log_lens_debug: Annotated[
        bool | None, typer.Option("--log-lens-debug", help="log the scores of every variant or snapshot")
    ] = None,
    log_maps: Annotated[
        bool | None, typer.Option("--log-maps", help="log LOD maps in characters, with what scores ask for")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="resume the run in --out, or begin")] = False,
    mix: Mixture = None,
    skip_damaged: SkipDamaged = None,
    as_json: AsJson = False,
) -> None:
    """Train a LensNet from the store alone.

    SIGTERM or Ctrl-C saves and ends; --resume goes on, bit for bit on one device. On several:
    torchrun --no-python --nproc-per-node 2 mctrace train ...

    Metrics go to metrics.jsonl and TensorBoard in --out, and with --set train.wandb=offline (or online) to
    Weights & Biases as well: pip install 'mctrace[wandb]'.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.display.training import print_ending, print_objective, training_answer
    from mctrace.cli.resumed_configuration import resumed_configuration
    from mctrace.cli.store_version import open_version
    from mctrace.progress import Silent
    from mctrace.train.checkpoints.atomic_folder import tidy_folders
    from mctrace.train.data_parallel import process_group
    from mctrace.train.loop.training_run import TrainingRun, find_stopped_run
    from mctrace.train.run_files import claim_run_folder

    settings = configure(
        config, store, set_, train_presets(preset), train__target=target,
        train__network__name=network, train__objective__name=objective, train__where=where,
        train__device=device, train__log_lens_debug=log_lens_debug, train__log_maps=log_maps,
        store__mix=mix, store__skip_damaged=skip_damaged,
    )  # fmt: skip
    with process_group() as workers:
        messages = messages_console(console, as_json=as_json)
        first = messages if workers.is_first else Console(quiet=True)
        if resume and workers.is_first:
            tidy_folders(out)
        workers.broadcast_first(None)  # nobody looks for a checkpoint before the folder is tidy
        stopped = find_stopped_run(out) if resume else None
        if resume and not stopped:
            first.print(f"There is no run to resume in {out}: this one begins anew", highlight=False)
        if stopped:
            settings = resumed_configuration(out, settings, first)
            version, dataset = stopped.info.dataset_version, stopped.info.derived_dataset
        at = open_version(settings.store, version, dataset)
        run = TrainingRun.of(
            settings.train, at, settings.store.uri, out,
            mix=settings.store.mix, workers=workers, stopped=stopped, limits=settings.sql,
        )  # fmt: skip
        if stopped is None and workers.is_first:
            claim_run_folder(out, settings.to_json(), overwrite=overwrite or resume)
        workers.broadcast_first(None)  # nobody writes before the folder is claimed
        print_objective(run, first)
        result = run.train(
            make_progress(first) if workers.is_first else Silent(),
            notify=partial(first.print, highlight=False),
            alert=lambda message: first.print(f"Alert: {message}", style="red", highlight=False),
        )
    if as_json and workers.is_first:
        print_json(training_answer(run, result, out))
    print_ending(result, settings.train, out, first)
