"""Commands that learn from a store and judge what was learned."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mctrace.cli.options import (
    Assignments,
    Config,
    Corpus,
    Dataset,
    DeviceName,
    Dtype,
    Mixture,
    Model,
    SkipDamaged,
    StoreUri,
    Version,
    configure,
    console,
    paths_of,
    refuse_given,
)
from mctrace.errors import InputError
from mctrace.train.config import TrainConfig, small_preset_changes
from mctrace.train.networks.config import NetworkName
from mctrace.train.objectives.config import ObjectiveName

learn_app = typer.Typer(rich_markup_mode=None)

Where = Annotated[
    str | None, typer.Option("--where", help='SQL condition on the target\'s rows, "abs(delta_nll) > stderr"')
]
Checkpoints = Annotated[list[Path] | None, typer.Argument(help="checkpoint folders, e.g. runs/lensnet/best")]


class Preset(StrEnum):
    """Named sets of training values; anything given beside them wins."""

    SMALL = "small"


@learn_app.command()
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
        typer.Option("--target", help="value, priced, literal (as the specification has it), or a .sql file"),
    ] = None,
    preset: Annotated[Preset | None, typer.Option("--preset", help="small: minutes on a laptop")] = None,
    network: Annotated[NetworkName | None, typer.Option("--network", help="which LensNet")] = None,
    objective: Annotated[ObjectiveName | None, typer.Option("--objective", help="what to learn from")] = None,
    where: Where = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    mix: Mixture = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Train a LensNet from the store alone.

    SIGTERM or Ctrl-C saves and ends; --resume goes on, bit for bit on one device. On several:
    torchrun --no-python --nproc-per-node 2 mctrace train ...

    Metrics go to metrics.jsonl and TensorBoard in --out, and with --set train.wandb=offline (or online) to
    Weights & Biases as well: pip install 'mctrace[wandb]'.
    """
    from mctrace.cli.train_command import train_run

    sizes = _small_preset if preset else None
    settings = configure(
        config, store, set_, sizes, train__target=target, train__network__name=network,
        train__objective__name=objective, train__where=where,
        store__mix=mix, store__skip_damaged=skip_damaged,
    )  # fmt: skip
    train_run(settings, version, out, dataset=dataset, overwrite=overwrite, resume=resume, console=console)


@learn_app.command()
def evaluate(
    checkpoints: Checkpoints = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test")] = "test",
    where: Where = None,
    closed_loop: Annotated[
        bool, typer.Option("--closed-loop", help="let them edit working contexts; read with the base model")
    ] = False,
    corpus: Corpus = None,
    model: Model = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder of a closed loop's results [the first run's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    mix: Mixture = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Judge checkpoints on held-out documents.

    Their scores against measured labels, beside simple baselines, with bootstrap intervals over documents;
    also written to evaluation.json in the first checkpoint's run folder. With --closed-loop by what they are
    for: each keeps a working context within a budget while a document streams by, and the base model's loss
    on what follows is compared with other policies and with hindsight; goes on where it stopped.
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
        from mctrace.cli.closed_loop_command import closed_loop_command

        closed_loop_command(settings, checkpoints or [], split, out, as_json, console)
        return
    refuse_given(
        {"--corpus": corpus, "--model": model, "--dtype": dtype, "--device": device, "--out": out},
        "only for --closed-loop; without it the store's labels judge, and no base model runs",
    )
    from mctrace.cli.evaluate_command import evaluate_checkpoints

    if not checkpoints:
        raise InputError("no checkpoint to judge: give folders that 'mctrace train' wrote, or --closed-loop")
    evaluate_checkpoints(settings, checkpoints, version, split, as_json, console, dataset)


def _small_preset(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The small preset's values for the network that flags, --set, environment or file name."""
    network = said.get("train", {}).get("network", {}).get("name", TrainConfig().network.name)
    return {"train": small_preset_changes(network)}
