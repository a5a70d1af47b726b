"""A training run that was stopped: where it is, and under which configuration it goes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from mctrace.cli.config import PipelineConfig
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, load_checkpoint
from mctrace.train.checkpoints.retention import step_folders

CONFIG_FILE = "config.json"
"""the configuration a run was started with, in its folder"""


@dataclass(frozen=True)
class EarlierRun:
    """A run that was stopped: its configuration and its last step checkpoint."""

    folder: Path
    config: PipelineConfig
    info: CheckpointInfo


def find_earlier_run(out: Path, given: PipelineConfig, console: Console) -> EarlierRun | None:
    """The run in `out`, if it has a checkpoint to go on from; says what of `given` does not count then."""
    folders = step_folders(out)
    if not folders:
        return None
    file = out / CONFIG_FILE
    try:
        content = file.read_text(encoding="utf-8")
        config = TypeAdapter(PipelineConfig).validate_json(content)
    except (OSError, ValidationError) as error:
        raise InputError(f"{file} is not the configuration of a run to go on with: {error}") from error
    differing = _differences(asdict(config), asdict(given))
    if differing:
        console.print(f"The run's own configuration stands: {'; '.join(differing)}", highlight=False)
    return EarlierRun(folders[-1], config, load_checkpoint(folders[-1])[1])


def _differences(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    found = []
    for section in ("store", "train"):
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
