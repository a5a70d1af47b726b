"""`mctrace plan`: a forecast of a collection run."""

from dataclasses import replace
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
    console,
    paths_of,
    refuse_given,
    with_decided_dtype,
)


def plan(
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
    actors: Annotated[int | None, typer.Option("--actors", help="Ray actors to predict for")] = None,
    no_ray: NoRay = False,
    gpu_tflops: Annotated[
        float | None,
        typer.Option("--gpu-tflops", help="predict for GPUs of this peak, without the model's weights"),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", help="nodes of such GPUs")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of a node")] = 1,
    gpus_per_actor: Annotated[float, typer.Option("--gpus-per-actor", help="GPUs of an actor")] = 1,
    mfu: Annotated[float, typer.Option("--mfu", help="share of the peak that a GPU reaches")] = 0.4,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.001, help="say what makes the run fit so many hours")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict a run: effects, tokens, hours, GB.

    Plans a sample of the documents and times a typical trajectory, or counts for GPUs that are not here.
    Keeps nothing.
    """
    from mctrace.cli.display.collection import (
        print_forecast,
        print_left_out,
        print_plan,
        print_within_hours,
        report_rejected,
    )
    from mctrace.cli.display.collection_answer import plan_answer
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.collect.planning.hardware import Hardware
    from mctrace.collect.planning.time_limit import within_hours
    from mctrace.collect.running.pool_choice import decide_dtype
    from mctrace.collect.running.prepared_run import prepare_run
    from mctrace.collect.running.timed_forecast import forecast_elsewhere, time_forecast
    from mctrace.datasets.store.store import find_store

    settings = configure(
        config, store, set_, collect_preset(preset),
        corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=actors,
    )  # fmt: skip
    messages = messages_console(console, as_json=as_json)
    if no_ray:
        refuse_given({"--actors": actors}, "--no-ray measures in one process; leave one of them out")
        settings = replace(settings, ray=replace(settings.ray, actors=1))
    settings = with_decided_dtype(settings, decide_dtype(settings.model, None), messages)
    hardware = Hardware(gpu_tflops, nodes, gpus, gpus_per_actor, mfu) if gpu_tflops is not None else None
    run, uri = settings.run_settings(), settings.store.uri
    known = find_store(uri)
    rejected = partial(report_rejected, console=messages)
    prepared = prepare_run(
        run, traces, known, make_progress(messages), rejected, needs_weights=hardware is None
    )
    print_plan(prepared, known, messages)
    print_left_out(prepared.left_out, messages)
    timed = (
        forecast_elsewhere(prepared, run, hardware, known)
        if hardware
        else time_forecast(prepared, run, settings.ray, uri, known)
    )
    within = None
    if timed is not None and hours is not None:
        missing = {unit.document_id for unit in prepared.decided.missing(known)}
        num_documents, num_missing = (
            round(n / prepared.share) for n in (len(prepared.plan.documents), len(missing))
        )
        within = within_hours(hours, timed.forecast, timed.num_workers, num_documents, num_missing)
    if as_json:
        print_json({"store": uri, **plan_answer(prepared, known, timed, within)})
    if timed is None:
        messages.print("Nothing to measure: every planned trajectory is in the store.")
    else:
        print_forecast(timed, hardware, messages)
    if within is not None:
        print_within_hours(within, messages)
