"""`mctrace collect`: labels measured into a store."""

from functools import partial
from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    AsJson,
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
    paths_of,
)
from mctrace.cli.shared_options import console as standard_output


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
    as_json: AsJson = False,
) -> None:
    """Measure counterfactual delta-NLL into the store.

    Commits part by part; the same command resumes where an earlier one stopped.
    """
    import mctrace.cli.display.collection as display
    from mctrace.cli.display.collection_answer import summary_answer
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.collect.running.driver import run_collection
    from mctrace.collect.running.pool_choice import check_workers, start_workers
    from mctrace.collect.running.prepared_run import decided_plan, prepare_run
    from mctrace.datasets.store.store import create_store, find_store

    settings = configure(
        config, store, set_, corpus__paths=paths_of(corpus, traces), corpus__limit=limit,
        corpus__strict=strict, model__name=model, model__dtype=dtype, model__device=device,
        ray__actors=actors, ray__address=ray_address,
    )  # fmt: skip
    console = messages_console(standard_output, as_json=as_json)
    progress, uri, known = make_progress(console), settings.store.uri, find_store(settings.store.uri)
    rejected = partial(display.report_rejected, console=console)
    prepared = prepare_run(settings.run_settings(), traces, known, progress, rejected)
    display.print_plan(prepared, known, console)
    ray = None if no_ray else settings.ray
    if ray is None:
        check_workers(ray, settings.model, uri)  # before there is a store
    opened = create_store(uri)
    try:
        summary = run_collection(
            opened, prepared.plan, partial(start_workers, ray),
            config=settings.collect, model=settings.model, gists=settings.gists, source=prepared.source,
            resolved_config=settings.to_json(), corpus=settings.corpus, left_out=prepared.left_out,
            progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        _, decided = decided_plan(prepared.plan, settings.collect, opened)
        display.print_interrupted(decided, opened, console)
        raise
    if summary.run_id is None:
        check_workers(ray, settings.model, uri)
    version = opened.at().version
    if as_json:
        print_json({"store": uri, **summary_answer(summary, version, dict(prepared.left_out.counts))})
    display.print_summary(summary, version, settings.collect.min_audit_spearman, console)
    display.print_left_out(prepared.left_out, console)
