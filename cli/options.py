"""Command-line options that several commands share, and how they become one configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mctrace.cli.config import PipelineConfig, load_config
from mctrace.errors import ConfigError

Config = Annotated[Path | None, typer.Option("--config", help="configuration file [pipeline.toml]")]
StoreUri = Annotated[str | None, typer.Option("--store", help="trace store, a folder or URI")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="any key, e.g. --set collect.horizon=128 (repeatable)")
]
Version = Annotated[int | None, typer.Option("--version", min=0, help="store version [newest]")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="read through a derived dataset [none]")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", help="what the SQL reads with getvariable, e.g. --var z=3 (repeatable)"),
]
SkipDamaged = Annotated[
    bool | None, typer.Option("--skip-damaged", help="leave damaged parts out and say which")
]
Mixture = Annotated[
    list[str] | None,
    typer.Option("--mix", help="labels that differ in models, gists or dtypes, together (repeatable)"),
]
Corpus = Annotated[list[str] | None, typer.Option("--corpus", help="file or folder (repeatable)")]
Traces = Annotated[Path | None, typer.Option("--traces", help="Parquet file of logged LOD maps")]
Model = Annotated[str | None, typer.Option("--model", help="alias, local folder or hub id")]
Limit = Annotated[int | None, typer.Option("--limit", help="most documents")]
Strict = Annotated[
    bool | None, typer.Option("--strict", help="stop at a file or line that cannot be read as text")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16")]
DeviceName = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]

console = Console(soft_wrap=True)


def refuse_given(options: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError with those of the `options`, by name, that were given though they mean nothing."""
    given = [name for name, value in options.items() if value not in (None, [], ())]
    if given:
        raise ConfigError(f"{' and '.join(given)}: {reason}")


def configure(
    config: Path | None,
    store: str | None,
    assignments: list[str] | None,
    preset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    **flags: object,
) -> PipelineConfig:
    """The configuration that a command's flags, named like `section__key`, are the last word on."""
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(config, assignments or [], {"store.uri": store, **dotted}, preset=preset)


def paths_of(corpus: list[str] | None, traces: Path | None = None) -> tuple[str, ...] | None:
    """What --corpus says, None where it is not given. Raises ConfigError beside --traces."""
    if corpus and traces:
        raise ConfigError("give --corpus or --traces, not both: a trace file brings its own documents")
    return tuple(corpus) if corpus else None
