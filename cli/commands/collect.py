"""`mctrace collect`: labels measured into a store."""

from functools import partial
from typing import Annotated

import typer

from mctrace.cli.presets import CollectPresetName, collect_preset
from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Limit,
    Model,
    NoRay,
    StoreUri,
    Strict,
    Traces,
    configure,
    number_or_word,
    paths_of,
    with_decided_dtype,
)
from mctrace.cli.shared_options import console as standard_output

_HAS_QUARANTINED = 3
"""exit status of a run that has measured everything but for items in quarantine"""


def collect(
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    corpus: Corpus = None,
    traces: Traces = None,
    model: Model = None,
    limit: Limit = None,
    strict: Strict = None,
    preset: CollectPresetName = None,
    dtype: Dtype = None,
    device: DeviceName = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="local, auto or HOST:PORT")] = None,
    actors: Annotated[
        str | None, typer.Option("--actors", help="most Ray actors, one model each; auto: all that fit")
    ] = None,
    gpus_per_actor: Annotated[
        float | None,
        typer.Option("--gpus-per-actor", help="GPUs of an actor, or a fraction [1 where there are any]"),
    ] = None,
    no_ray: NoRay = False,
    as_json: AsJson = False,
    log_dir: Annotated[
        str | None, typer.Option("--log-dir", help="keep logs of driver and workers here")
    ] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="measure what earlier runs gave up as well")
    ] = False,
) -> None:
    """Measure counterfactual delta-NLL into the store.

    Commits part by part; the same command resumes where an earlier one stopped.
    Exit status 3: all is measured but for items in quarantine.
    """
    import mctrace.cli.display.collection as display
    from mctrace.cli.display.collection_answer import summary_answer
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.display.run_messages import print_messages
    from mctrace.collect.cluster.run_logs import keep_logs
    from mctrace.collect.running.driver import run_collection
    from mctrace.collect.running.pool_choice import check_workers, decide_dtype, start_workers
    from mctrace.collect.running.prepared_run import prepare_stream
    from mctrace.datasets.store.store import create_store, find_store

    settings = configure(
        config, store, set_, collect_preset(preset),
        corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=number_or_word(actors), ray__address=ray_address, ray__num_gpus=gpus_per_actor,
        logs__folder=log_dir,
    )  # fmt: skip
    console = messages_console(standard_output, as_json=as_json)
    print_messages(console)
    keep_logs(settings.logs, "driver")
    ray = None if no_ray else settings.ray
    settings = with_decided_dtype(settings, decide_dtype(settings.model, ray), console)
    progress, uri, known = make_progress(console), settings.store.uri, find_store(settings.store.uri)
    rejected = partial(display.report_rejected, console=console)
    prepared = prepare_stream(settings.run_settings(), traces, known, progress, rejected)
    if ray is None:
        check_workers(ray, settings.model, uri)  # before there is a store
    opened = create_store(uri)
    try:
        summary = run_collection(
            opened, prepared.stream, partial(start_workers, ray, settings.logs),
            config=settings.collect, model=settings.model, gists=settings.gists, source=prepared.source,
            resolved_config=settings.to_json(), corpus=settings.corpus, left_out=prepared.left_out,
            progress=progress, retry_quarantined=retry_quarantined,
            compact_every=settings.store.compact_every,
            on_planned=partial(display.print_head, console=console),
        )  # fmt: skip
    except KeyboardInterrupt:
        display.print_interrupted(console)
        raise
    if summary.run_id is None:
        check_workers(ray, settings.model, uri)
    version = opened.at().version
    if as_json:
        print_json({"store": uri, **summary_answer(summary, version, dict(prepared.left_out.counts))})
    display.print_summary(summary, version, settings.collect.min_audit_spearman, console)
    display.print_left_out(prepared.left_out, console)
    if display.print_quarantined(summary, console):
        raise typer.Exit(_HAS_QUARANTINED)
