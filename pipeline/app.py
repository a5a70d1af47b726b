"""`mctrace`, the console script: what each command is called, what it takes, and how mistakes end.

Commands are thin; the work is in the `*_command` modules beside this file, imported when their command runs,
so that asking the store a question does not load a deep-learning stack.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from mctrace.context.errors import ConfigError, InputError, MctraceError
from mctrace.pipeline.gist_app import gist_app
from mctrace.pipeline.options import (
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Limit,
    Model,
    StoreUri,
    Traces,
    Version,
    configure,
    console,
)
from mctrace.train.config import NetworkName, TrainConfig, small_preset_changes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(gist_app, name="gist")

Checkpoints = Annotated[list[Path] | None, typer.Argument(help="checkpoint folders, e.g. runs/lensnet/best")]


class Preset(StrEnum):
    """Named sets of training values; anything given beside them wins."""

    SMALL = "small"


class OutputFormat(StrEnum):
    """How `mctrace sql` prints an answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mctrace {version('mctrace')}")
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Measure what every part of an LLM's working context is worth, keep it, query it, learn from it."""


@app.command()
def init(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Write a commented pipeline.toml and create its store."""
    from mctrace.pipeline.store_commands import init_project

    init_project(config, store, set_ or [], console)


@app.command()
def plan(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    traces: Traces = None,
    model: Model = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    actors: Annotated[int | None, typer.Option("--actors", help="actors the run would have")] = None,
) -> None:
    """Predict a run: effects, tokens, hours, GB.

    Plans everything and times one typical trajectory; keeps nothing.
    """
    from mctrace.pipeline.collect_command import plan_run

    settings = configure(
        config, store, set_, corpus__paths=_paths(corpus, traces), corpus__limit=limit, model__name=model,
        model__dtype=dtype, model__device=device, ray__actors=actors,
    )  # fmt: skip
    plan_run(settings, traces, console)


@app.command()
def collect(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    traces: Traces = None,
    model: Model = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="local, auto or HOST:PORT")] = None,
    actors: Annotated[int | None, typer.Option("--actors", help="Ray actors, one model each")] = None,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="measure in this process")] = False,
) -> None:
    """Measure counterfactual delta-NLL into the store.

    Commits part by part; the same command goes on where an earlier one stopped.
    """
    from mctrace.pipeline.collect_command import collect_run

    settings = configure(
        config, store, set_, corpus__paths=_paths(corpus, traces), corpus__limit=limit, model__name=model,
        model__dtype=dtype, model__device=device, ray__actors=actors, ray__address=ray_address,
    )  # fmt: skip
    collect_run(settings, traces, use_ray=not no_ray, console=console)


@app.command()
def log(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    versions: Annotated[bool, typer.Option("--versions", help="every version and what it added")] = False,
) -> None:
    """List the store's runs: what, when, how many.

    Each with its model, gists, estimator and the versions it made.
    """
    from mctrace.pipeline.store_commands import print_log, print_versions

    show = print_versions if versions else print_log
    show(configure(config, store, set_), console)


@app.command()
def compact(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Put many small parts into few large ones.

    A new version with the same rows; earlier versions stay as they are. Runs may go on meanwhile.
    """
    from mctrace.pipeline.store_commands import compact_store

    compact_store(configure(config, store, set_), console)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="one query; - or none reads standard input")] = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    file: Annotated[Path | None, typer.Option("--file", help="read the query from a file")] = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="how to print")] = OutputFormat.TABLE,
) -> None:
    """Ask the store a question in SQL.

    Views: snapshots, labels, labels_at(h), effects, trajectories, documents, runs, variants,
    preference_pairs. Try "describe labels".
    """
    from mctrace.pipeline.store_commands import answer_query

    answer_query(configure(config, store, set_), version, query, file, format_.value, console)


@app.command()
def train(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    out: Annotated[Path, typer.Option("--out", help="folder for checkpoints and metrics")] = Path(
        "runs/lensnet"
    ),
    target: Annotated[
        str | None,
        typer.Option("--target", help="priced; literal, as the specification has it; or a .sql file"),
    ] = None,
    preset: Annotated[Preset | None, typer.Option("--preset", help="small: minutes on a laptop")] = None,
    network: Annotated[NetworkName | None, typer.Option("--network", help="which LensNet")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")] = False,
) -> None:
    """Train a LensNet from the store alone."""
    from mctrace.pipeline.train_command import train_run

    sizes = _small_preset if preset else None
    settings = configure(config, store, set_, sizes, train__target=target, train__network__name=network)
    train_run(settings, version, out, overwrite=overwrite, console=console)


@app.command()
def evaluate(
    checkpoints: Checkpoints = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test")] = "test",
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
) -> None:
    """Judge checkpoints on held-out documents.

    Their scores against measured labels, beside simple baselines, with bootstrap intervals over documents;
    also written to evaluation.json in the first checkpoint's run folder. With --closed-loop by what they are
    for: each keeps a working context within a budget while a document streams by, and the base model's loss
    on what follows is compared with other policies and with hindsight; goes on where it stopped.
    """
    settings = configure(
        config, store, set_, corpus__paths=_paths(corpus, None), model__name=model, model__dtype=dtype,
        model__device=device,
    )  # fmt: skip
    if closed_loop:
        from mctrace.pipeline.closed_loop_command import evaluate_closed_loop

        evaluate_closed_loop(settings, checkpoints or [], split, out, as_json, console)
        return
    from mctrace.pipeline.train_command import evaluate_checkpoints

    if not checkpoints:
        raise InputError("no checkpoint to judge: give folders that 'mctrace train' wrote, or --closed-loop")
    evaluate_checkpoints(settings, checkpoints, version, split, as_json, console)


@app.command()
def report(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    out: Annotated[Path, typer.Option("--out", help="the HTML file to write")] = Path("report.html"),
    run: Annotated[Path | None, typer.Option("--run", help="training run folder to include")] = None,
) -> None:
    """Write one self-contained HTML report.

    Labels, signal against noise, targets, and a run's training and evaluation with --run.
    """
    from mctrace.pipeline.report_command import write_report

    write_report(configure(config, store, set_), version, out, run, console)


@app.command()
def verify(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    quick: Annotated[bool, typer.Option("--quick", help="sizes only, no hashes")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="remove old files no ledger row names")] = False,
) -> None:
    """Check every file against the ledger.

    Presence, size, sha256, schema, row counts, references between tables, finite values.
    """
    from mctrace.pipeline.store_commands import verify_run

    verify_run(configure(config, store, set_), version, quick=quick, sweep=sweep, console=console)


def _small_preset(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The small preset's values for the network that flags, --set, environment or file name."""
    network = said.get("train", {}).get("network", {}).get("name", TrainConfig().network.name)
    return {"train": small_preset_changes(network)}


def _paths(corpus: list[str] | None, traces: Path | None) -> tuple[str, ...] | None:
    if corpus and traces:
        raise ConfigError("give --corpus or --traces, not both: a trace file brings its own documents")
    return tuple(corpus) if corpus else None


def main() -> None:
    """Runs one command; a person's mistake ends in one line on standard error and a non-zero exit."""
    _quiet_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except MctraceError as error:
        _complain(str(error))
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("ray", "transformers", "datasketch", "huggingface_hub"):
            raise
        _complain(f"this command needs {error.name}: pip install 'mctrace[collect]'")
        sys.exit(1)


def _complain(message: str) -> None:
    errors = Console(stderr=True, soft_wrap=True)
    errors.print(f"mctrace: {message}", style="red", markup=False, highlight=False)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _quiet_libraries() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
