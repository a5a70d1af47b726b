"""`mctrace`, the console script: what each command is called, what it takes, and how mistakes end.

Commands are thin; the work is in the `*_command` modules beside this file, imported when their command runs,
so that asking the store a question does not load a deep-learning stack.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
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
    Dataset,
    DeviceName,
    Dtype,
    Limit,
    Mixture,
    Model,
    SkipDamaged,
    StoreUri,
    Traces,
    Variables,
    Version,
    configure,
    console,
)
from mctrace.train.config import NetworkName, TrainConfig, small_preset_changes
from mctrace.train.objective_config import ObjectiveName

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(gist_app, name="gist")

Where = Annotated[
    str | None, typer.Option("--where", help='SQL condition on the target\'s rows, "abs(delta_nll) > stderr"')
]
Checkpoints = Annotated[list[Path] | None, typer.Argument(help="checkpoint folders, e.g. runs/lensnet/best")]
ScoredBy = Annotated[
    list[Path] | None, typer.Option("--checkpoint", help="show a LensNet's scores (repeatable)")
]


class Preset(StrEnum):
    """Named sets of training values; anything given beside them wins."""

    SMALL = "small"


class OutputFormat(StrEnum):
    """How `mctrace sql` prints an answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class ExportLayout(StrEnum):
    """How `mctrace export` lays out files."""

    HF = "hf"
    PARQUET = "parquet"


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
    version: Version = None,
    versions: Annotated[bool, typer.Option("--versions", help="every version and what it added")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """List the store's runs: what, when, how many.

    Each with its model, gists, estimator and the versions it made.
    """
    from mctrace.pipeline.store_commands import print_log, print_versions

    show = print_versions if versions else print_log
    show(configure(config, store, set_, store__skip_damaged=skip_damaged), version, console)


@app.command()
def compact(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Put many small parts into few large ones.

    A new version with the same rows; earlier versions stay as they are. Runs may go on meanwhile.
    """
    from mctrace.pipeline.store_commands import compact_store

    compact_store(configure(config, store, set_), console)


@app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(help="one query; - reads standard input; none: a shell")
    ] = None,
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    file: Annotated[Path | None, typer.Option("--file", help="read the query from a file")] = None,
    variables: Variables = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="how to print")] = OutputFormat.TABLE,
    out: Annotated[
        Path | None, typer.Option("--out", help="write to a file; its ending says the format")
    ] = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Ask the store a question in SQL.

    Views: labels, labels_at(h), snapshots, entries, effects, trajectories, documents, runs, datasets,
    variants, preference_pairs, controls, joint_edits, audits, and NAME_target of every target. Try "describe
    labels". Without a query, and not in a pipe, it opens a shell.
    """
    from mctrace.pipeline.sql_command import answer_query, open_shell, wants_shell

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    if wants_shell(query, file):
        open_shell(settings, version, dataset, console)
    else:
        answer_query(
            settings,
            version,
            query,
            file,
            format_.value,
            console,
            dataset=dataset,
            variables=variables or [],
            out=out,
        )


@app.command()
def derive(
    name: Annotated[str, typer.Argument(help="what --dataset will call it")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="a recipe that ships, recipes/NAME.sql, or a .sql file")
    ],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    seed: Annotated[int, typer.Option("--seed", help="the recipe's chance")] = 0,
    variables: Variables = None,
) -> None:
    """Make a dataset of a version with a recipe in SQL.

    Filters, augmentations, balancing: the rows become a part of the store, reproducible to the byte, which
    train, evaluate and sql read with --dataset.
    """
    from mctrace.pipeline.derive_command import derive_dataset

    derive_dataset(
        configure(config, store, set_), version, dataset, name, recipe, seed, variables or [], console
    )


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="the folder to write")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    format_: Annotated[
        ExportLayout, typer.Option("--format", help="parquet: load_dataset; hf: load_from_disk")
    ] = ExportLayout.PARQUET,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="a .sql file or a target's name (repeatable) [all]")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="which labels, in SQL, e.g. \"split = 'train'\"")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="entries and documents as text, too")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="the base model's embedding table, too")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Write labels and their context for Hugging Face datasets.

    A row per snapshot with its entries, actions and targets; a row per document with its tokens and gists.
    """
    from mctrace.datasets.export import ExportRequest
    from mctrace.pipeline.export_command import export_store

    targets = {"targets": tuple(target)} if target else {}
    request = ExportRequest(format_.value, where=where, with_text=text, with_embeddings=embeddings, **targets)
    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    export_store(
        settings,
        version,
        out,
        request,
        overwrite=overwrite,
        console=console,
    )


@app.command()
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
        typer.Option("--target", help="priced; literal, as the specification has it; or a .sql file"),
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
    """
    from mctrace.pipeline.train_command import train_run

    sizes = _small_preset if preset else None
    settings = configure(
        config, store, set_, sizes, train__target=target, train__network__name=network,
        train__objective__name=objective, train__where=where,
        store__mix=mix, store__skip_damaged=skip_damaged,
    )  # fmt: skip
    train_run(settings, version, out, dataset=dataset, overwrite=overwrite, resume=resume, console=console)


@app.command()
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
        corpus__paths=_paths(corpus, None), model__name=model, model__dtype=dtype, model__device=device,
    )  # fmt: skip
    if closed_loop:
        from mctrace.pipeline.closed_loop_command import evaluate_closed_loop

        evaluate_closed_loop(settings, checkpoints or [], split, out, as_json, console)
        return
    from mctrace.pipeline.evaluate_command import evaluate_checkpoints

    if not checkpoints:
        raise InputError("no checkpoint to judge: give folders that 'mctrace train' wrote, or --closed-loop")
    evaluate_checkpoints(settings, checkpoints, version, split, as_json, console, dataset)


@app.command()
def report(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    out: Annotated[Path, typer.Option("--out", help="the HTML file to write")] = Path("report.html"),
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="training run folder to include (repeatable)")
    ] = None,
    checkpoints: ScoredBy = None,
    compare: Annotated[
        int | None, typer.Option("--compare", min=0, help="set another version beside")
    ] = None,
    snapshots: Annotated[
        list[str] | None, typer.Option("--snapshot", help="id, or its beginning (repeatable) [picked]")
    ] = None,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Write one self-contained HTML report.

    Signal against noise, values, targets, single snapshots with their text, a page per run; with --run and
    --checkpoint scores and training, with two of them or --compare what differs.
    """
    from mctrace.pipeline.report_command import ReportRequest, write_report

    settings = configure(config, store, set_, store__skip_damaged=skip_damaged)
    request = ReportRequest(out, version, compare, runs or (), checkpoints or (), snapshots or ())
    write_report(settings, request, console)


@app.command()
def show(
    snapshot: Annotated[str, typer.Argument(help="snapshot id, or the beginning of its trajectory's id")],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    checkpoints: ScoredBy = None,
    top: Annotated[int, typer.Option("--top", min=1, help="how many expands and collapses")] = 5,
    actions: Annotated[bool, typer.Option("--actions", help="every legal action, measured or not")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    skip_damaged: SkipDamaged = None,
) -> None:
    """Show one snapshot in the terminal.

    Its LOD map as a line of blocks, and the edits that are worth most, with their text.
    """
    from mctrace.pipeline.show_command import ShowRequest, show_snapshot

    request = ShowRequest(snapshot, version, checkpoints or (), top, actions, as_json)
    show_snapshot(configure(config, store, set_, store__skip_damaged=skip_damaged), request, console)


@app.command()
def verify(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    quick: Annotated[bool, typer.Option("--quick", help="sizes only, no hashes")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="remove old files no ledger row names")] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="hours that a file stays though no row names it, with --sweep"),
    ] = 24,
) -> None:
    """Check every file against the ledger.

    Presence, size, sha256, schema, row counts, references between tables, finite values.
    """
    from mctrace.pipeline.store_commands import verify_run

    grace_period = timedelta(hours=grace) if sweep else None
    verify_run(
        configure(config, store, set_), version, quick=quick, sweep_after=grace_period, console=console
    )


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
