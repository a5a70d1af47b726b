"""Commands that fill a store and keep it: from a configuration to labels on disk."""

from datetime import timedelta
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
    SkipDamaged,
    StoreUri,
    Strict,
    Traces,
    Version,
    configure,
    console,
    paths_of,
)

collect_app = typer.Typer(rich_markup_mode=None)


@collect_app.command()
def init(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Write a commented pipeline.toml and create its store."""
    from mctrace.cli.store_commands import init_project

    init_project(config, store, set_ or [], console)


@collect_app.command()
def plan(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    traces: Traces = None,
    model: Model = None,
    limit: Limit = None,
    strict: Strict = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    actors: Annotated[int | None, typer.Option("--actors", help="actors the run would have")] = None,
) -> None:
    """Predict a run: effects, tokens, hours, GB.

    Plans everything and times one typical trajectory; keeps nothing.
    """
    from mctrace.cli.collect_command import plan_run

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=actors,
    )  # fmt: skip
    plan_run(settings, traces, console)


@collect_app.command()
def collect(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    traces: Traces = None,
    model: Model = None,
    limit: Limit = None,
    strict: Strict = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="local, auto or HOST:PORT")] = None,
    actors: Annotated[int | None, typer.Option("--actors", help="Ray actors, one model each")] = None,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="measure in this process")] = False,
) -> None:
    """Measure counterfactual delta-NLL into the store.

    Commits part by part; the same command goes on where an earlier one stopped.
    """
    from mctrace.cli.collect_command import collect_run

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=actors, ray__address=ray_address,
    )  # fmt: skip
    collect_run(settings, traces, use_ray=not no_ray, console=console)


@collect_app.command()
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
    from mctrace.cli.store_commands import print_log, print_versions

    show = print_versions if versions else print_log
    show(configure(config, store, set_, store__skip_damaged=skip_damaged), version, console)


@collect_app.command()
def compact(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Put many small parts into few large ones.

    A new version with the same rows; earlier versions stay as they are. Runs may go on meanwhile.
    """
    from mctrace.cli.store_commands import compact_store

    compact_store(configure(config, store, set_), console)


@collect_app.command()
def verify(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    quick: Annotated[bool, typer.Option("--quick", help="sizes only, no hashes")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="remove old files no ledger row names")] = False,
    withdraw: Annotated[
        bool,
        typer.Option(
            "--withdraw", help="a new version without damaged parts, so that collect measures them again"
        ),
    ] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="hours that a file stays though no row names it, with --sweep"),
    ] = 24,
) -> None:
    """Check every file against the ledger.

    Presence, size, sha256, schema, row counts, references between tables, finite values.
    """
    from mctrace.cli.store_commands import verify_run

    grace_period = timedelta(hours=grace) if sweep else None
    verify_run(
        configure(config, store, set_),
        version,
        quick=quick,
        sweep_after=grace_period,
        withdraw=withdraw,
        console=console,
    )
