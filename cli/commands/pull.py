"""`mctrace pull`: labels, a LensNet or a GistNet from a Hugging Face hub."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mctrace.cli.shared_options import AsJson, console


class RepositoryType(StrEnum):
    """What a hub calls its kinds of repository."""

    DATASET = "dataset"
    MODEL = "model"


def pull(
    repo: Annotated[str, typer.Argument(help="organisation/name on the hub")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    type_: Annotated[
        RepositoryType | None, typer.Option("--type", help="dataset or model [whichever there is]")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="branch, tag or commit [newest]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what was pulled before")] = False,
    as_json: AsJson = False,
) -> None:
    """Download labels, a LensNet or a GistNet from a hub.

    Only data is taken (Parquet, safetensors, JSON, Markdown), checked against its own records before it is
    put in place. Commands take the folder; load_checkpoint and load_gistnet take organisation/name as well.
    """
    from mctrace.cli.display.json_answer import messages_console, print_json
    from mctrace.cli.display.progress import make_progress
    from mctrace.sharing.pull import pull as pull_repository

    messages = messages_console(console, as_json=as_json)
    done = pull_repository(
        repo, out, make_progress(messages), repo_kind=type_.value if type_ else None, revision=revision,
        overwrite=overwrite,
    )  # fmt: skip
    if done.left_out:
        messages.print(
            f"left out, since no {done.kind} has such files: {', '.join(done.left_out)}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    if as_json:
        print_json(
            {"repo": repo, "folder": str(out), "kind": done.kind, "commit": done.commit,
             "num_files": done.num_files, "num_bytes": done.num_bytes, "left_out": list(done.left_out)}
        )  # fmt: skip
        return
    console.print(
        f"pulled {done.kind} of {repo} at {done.commit[:12]} into {out} ({done.num_bytes / 1e6:.1f} MB)",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
