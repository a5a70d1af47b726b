"""`mctrace collect`: labels measured into a store."""

from functools import partial
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    Assignments,
    Config,
    Corpus,
    DeviceName,
    Dtype,
    Limit,
    Model,
    StoreUri,
    Strict,
    Traces,
    configure,
    console,
    paths_of,
)


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

    Commits part by part; the same command resumes where an earlier one stopped.
    """
    import mctrace.cli.display.collection as display
    from mctrace.cli.display.progress import make_progress
    from mctrace.collect.running.driver import run_collection
    from mctrace.collect.running.pool_choice import check_workers, start_workers
    from mctrace.collect.running.prepared_run import prepare_stream
    from mctrace.datasets.store.store import create_store, find_store

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=actors, ray__address=ray_address,
    )  # fmt: skip
    progress, uri, known = make_progress(console), settings.store.uri, find_store(settings.store.uri)
    rejected = partial(display.report_rejected, console=console)
    prepared = prepare_stream(settings.run_settings(), traces, known, rejected)
    opened = create_store(uri)
    ray = None if no_ray else settings.ray
    try:
        summary = run_collection(
            opened, prepared.stream, partial(start_workers, ray),
            config=settings.collect, model=settings.model, gists=settings.gists, source=prepared.source,
            resolved_config=settings.to_json(), corpus=settings.corpus, left_out=prepared.left_out,
            progress=progress, on_planned=partial(display.print_head, console=console),
        )  # fmt: skip
    except KeyboardInterrupt:
        display.print_interrupted(console)
        raise
    if summary.run_id is None:
        check_workers(ray, settings.model, uri)
    display.print_summary(summary, opened.at().version, settings.collect.min_audit_spearman, console)
    display.print_left_out(prepared.left_out, console)
