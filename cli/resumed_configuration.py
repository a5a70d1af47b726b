"""The configuration of a training run that resumes: its own, kept in the run folder since it started."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from mctrace.cli.configuration import PipelineConfig
from mctrace.errors import InputError
from mctrace.train.run_files import CONFIG_FILE


def resumed_configuration(
    out: Path, given: PipelineConfig, console: Console, sections: Sequence[str] = ("store", "train")
) -> PipelineConfig:
    """Read the configuration of the run in `out`, and print the values of `given` that it overrules in the
    named sections.

    Raises InputError when the file is missing or damaged.
    """
    file = out / CONFIG_FILE
    try:
        content = file.read_text(encoding="utf-8")
        config = TypeAdapter(PipelineConfig).validate_json(content)
    except (OSError, ValidationError) as error:
        raise InputError(f"{file} is not the configuration of a run to go on with: {error}") from error
    differing = _differences(asdict(config), asdict(given), sections)
    if differing:
        console.print(f"The run's own configuration stands: {'; '.join(differing)}", highlight=False)
    return config


def _differences(own: Mapping[str, Any], given: Mapping[str, Any], sections: Sequence[str]) -> list[str]:
    found = []
    for section in sections:
        theirs = _flat(own[section], f"{section}.")
        ours = _flat(given[section], f"{section}.")
        found += [
            f"{key} is {value!r}, not {ours.get(key)!r}"
            for key, value in theirs.items()
            if ours.get(key) != value
        ]
    return found


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
