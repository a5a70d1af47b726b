"""Options that several commands share, and the configuration that they and --set make."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from mctrace.cli.configuration import PipelineConfig, load_config
from mctrace.collect.config import Dtype as DtypeName
from mctrace.collect.config import ModelConfig
from mctrace.errors import ConfigError

Config = Annotated[Path | None, typer.Option("--config", help="configuration file [pipeline.toml]")]
StoreUri = Annotated[str | None, typer.Option("--store", help="trace store, a folder or URI")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="<key=value>", help="value of any key, e.g. collect.horizon=128 (repeatable)"
    ),
]
Version = Annotated[int | None, typer.Option("--version", min=0, help="store version [newest]")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="read through a derived dataset [none]")]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--var", metavar="<name=value>", help="variable for getvariable() in the SQL, e.g. z=3 (repeatable)"
    ),
]
SkipDamaged = Annotated[bool | None, typer.Option("--skip-damaged", help="skip damaged parts and list them")]
Mixture = Annotated[
    list[str] | None,
    typer.Option("--mix", metavar="<models|gists|dtypes>", help="allow labels of several (repeatable)"),
]
Where = Annotated[
    str | None,
    typer.Option("--where", help='SQL condition on the target\'s rows, e.g. "abs(delta_nll) > stderr"'),
]
ScoredBy = Annotated[
    list[Path] | None, typer.Option("--checkpoint", help="LensNet whose scores to show (repeatable)")
]
Corpus = Annotated[
    list[str] | None, typer.Option("--corpus", metavar="<path>", help="file or folder of text (repeatable)")
]
Traces = Annotated[Path | None, typer.Option("--traces", help="Parquet file of logged LOD maps")]
Model = Annotated[str | None, typer.Option("--model", help="alias, local folder or hub id")]
Limit = Annotated[int | None, typer.Option("--limit", help="maximum number of documents")]
Strict = Annotated[
    bool | None, typer.Option("--strict", help="stop at a file or line that is not readable as text")
]
Dtype = Annotated[DtypeName | None, typer.Option("--dtype", help="of the model")]
Split = Annotated[Literal["train", "validation", "test"], typer.Option("--split", help="of the documents")]
DeviceName = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
NoRay = Annotated[bool, typer.Option("--no-ray", help="measure in one process, without Ray")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object; messages go to standard error")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads for torch")]

console = Console(soft_wrap=True)


def refuse_given(options: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError that names the given ones among `options`, which have no meaning here."""
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
    """The configuration, in which a command's flags, named like `section__key`, win over everything else."""
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(config, assignments or [], {"store.uri": store, **dotted}, preset=preset)


def paths_of(corpus: list[str] | None, traces: Path | None = None) -> tuple[str, ...] | None:
    """Paths given with --corpus, or None. Raises ConfigError when --traces is given too."""
    if corpus and traces:
        raise ConfigError("give --corpus or --traces, not both: a trace file brings its own documents")
    return tuple(corpus) if corpus else None


def number_or_word(value: str | None) -> int | str | None:
    """A flag that takes a number or a word, as the configuration's check wants it."""
    return int(value) if value and value.lstrip("-").isdigit() else value


def with_decided_dtype(settings: PipelineConfig, model: ModelConfig, to: Console) -> PipelineConfig:
    """The configuration with `model`, whose dtype was decided; print where that rounds labels."""
    if settings.model.dtype == "auto" and model.dtype == "bfloat16":
        to.print(
            "The model runs in bfloat16 on GPUs, which shifts single labels by about 0.01 nats "
            "(--dtype float32 does not)",
            highlight=False,
        )
    return replace(settings, model=model)
