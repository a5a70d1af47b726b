"""`mctrace attribute`: what every part of one text is worth. No store, no configuration."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mctrace.attribution.question import Against, EstimatorName, UnitKind, check_question
from mctrace.cli.shared_options import Threads, console
from mctrace.errors import ConfigError


def attribute(
    file: Annotated[str, typer.Argument(help="text file, or - for standard input")],
    model: Annotated[str, typer.Option("--model", help="alias, local folder or hub id")] = "smollm2-135m",
    unit: Annotated[
        UnitKind | None,
        typer.Option("--unit", help="parts to measure [sentence; block with --against gist]"),
    ] = None,
    against: Annotated[
        Against,
        typer.Option("--against", help="drop: leave a part out; gist: put a block's gist in its place"),
    ] = "drop",
    target: Annotated[
        str | None, typer.Option("--target", help="continuation whose loss counts [what follows each part]")
    ] = None,
    estimator: Annotated[
        EstimatorName,
        typer.Option("--estimator", help="gradient: all parts at once to first order, for long texts"),
    ] = "exact",
    gists: Annotated[
        str | None,
        typer.Option("--gists", help="with --against gist: a shipped name or a GistNet folder [mean]"),
    ] = None,
    block_size: Annotated[int, typer.Option("--block-size", min=2, help="tokens of a block")] = 32,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="of the model")
    ] = "float32",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")] = "auto",
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write, with the text coloured")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="parts in the table")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure what every part of a text is worth for what follows it.

    Each part is left out and everything after it is read again by the model: the answer is how much higher
    the loss gets, in nats. With --target, the loss of that continuation alone. Prints the text coloured by
    value and its parts by size; --out writes a page that compares, token by token, with and without each.
    """
    from rich.console import Console

    from mctrace.attribution.attribute import attribute as attribute_text
    from mctrace.attribution.page import check_page_path, write_page
    from mctrace.attribution.text_file import read_text
    from mctrace.attribution.text_model import TextModel
    from mctrace.cli.display.attribution import print_attribution
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.display.progress import make_progress

    if out is not None:
        check_page_path(out)
    text = read_text(file)
    check_question(text, target, unit, against, estimator)
    if gists is not None and against != "gist":
        raise ConfigError(f"--gists {gists} has no effect here: give --against gist as well, or leave it out")
    if threads:
        import torch

        torch.set_num_threads(threads)
    found = attribute_text(
        text, model=TextModel.load(model, dtype=dtype, device=device), unit=unit, against=against,
        target=target, estimator=estimator, gists=gists or "mean", block_size=block_size,
        progress=make_progress(Console(stderr=True)),
    )  # fmt: skip
    # The answer first: a page that cannot be written does not take what was measured along.
    if as_json:
        print_json(found.to_json())
    else:
        print_attribution(found, console, top=top)
    if out is None:
        return
    write_page(out, found.html())
    if not as_json:
        console.print(f"wrote {out.resolve()}", markup=False, highlight=False, soft_wrap=True)
