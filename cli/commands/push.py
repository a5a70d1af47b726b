"""`mctrace push`: labels, a LensNet or a GistNet to a Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import AsJson, Dataset, Version, console


def push(
    source: Annotated[str, typer.Argument(help="store, export, checkpoint or GistNet folder")],
    repo: Annotated[str, typer.Argument(help="organisation/name on the hub")],
    version: Version = None,
    dataset: Dataset = None,
    where: Annotated[
        str | None, typer.Option("--where", help="SQL condition on the labels of a store")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="include a store's texts")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="licence for the card, e.g. apache-2.0")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="a new repository is private")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload labels, a LensNet or a GistNet to a hub.

    A store's labels go as Parquet that Hugging Face datasets streams; networks as safetensors. Each with a
    card made of what was recorded. One commit; HF_ENDPOINT and HF_TOKEN choose the hub and who you are.
    """
    from dataclasses import asdict

    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.cli.shared_options import refuse_given
    from mctrace.datasets.export.export import ExportRequest
    from mctrace.datasets.store.store import find_store
    from mctrace.sharing.push import push_folder, push_store

    store = find_store(source)
    if store is None:
        refuse_given(
            {"--version": version, "--dataset": dataset, "--where": where, "--text": text or None},
            f"only for a store, which {source} is not; leave it out",
        )
        done = push_folder(Path(source), repo, licence=licence, private=private)
    else:
        at = store.at(version).read_through(dataset)
        request = ExportRequest(where=where, with_text=text)
        progress = make_progress(messages_console(console, as_json=as_json))
        done = push_store(at, repo, request, progress, licence=licence, private=private)
    if as_json:
        print_json(asdict(done))
        return
    console.print(
        f"pushed {done.num_files} files ({done.num_bytes / 1e6:.1f} MB) to {done.url}, "
        f"commit {done.commit[:12]}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
