"""Presets of `collect`, `plan` and `train`: named sets of values; anything given beside them wins."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import reduce
from typing import Annotated, Any

import typer

from mctrace.collect import config as collect
from mctrace.gists import config as gists
from mctrace.train import config as train

Values = Mapping[str, Any]
"""nested sections"""


class CollectPreset(StrEnum):
    """Presets of collection."""

    DENSE = "dense"


class TrainPreset(StrEnum):
    """Presets of training; several together where they name different keys."""

    SMALL = "small"
    SPECIFICATION = "specification"
    DENSE = "dense"


class KeyValuePreset(StrEnum):
    """Presets of the training of key-value gists, by what they take."""

    CPU = "cpu"
    GPU = "gpu"
    LONG = "long"


KeyValuePresetName = Annotated[
    KeyValuePreset | None,
    typer.Option(
        "--preset",
        help="of --kind key_value: cpu, 20 minutes of one core (the default); gpu, eight minutes of one GPU; "
        "long, ten times that",
    ),
]
CollectPresetName = Annotated[
    CollectPreset | None,
    typer.Option(
        "--preset", help="dense: all actions of many documents by gradient, a tenth exactly, one cursor each"
    ),
]
TrainPresetNames = Annotated[
    list[TrainPreset] | None,
    typer.Option(
        "--preset",
        metavar="<small|specification|dense>",
        help="small: minutes on a laptop; specification: the source documents' trainer; dense: labels "
        "weighed by the measured error of their estimator (repeatable)",
    ),
]


def collect_preset(name: CollectPreset | None) -> Callable[[Values], Values] | None:
    """Values of a preset of collection, whatever is given beside them."""
    return None if name is None else lambda given: {"collect": collect.dense_preset_changes()}


def key_value_preset(name: KeyValuePreset | None) -> Callable[[Values], Values] | None:
    """Values of a preset of the training of key-value gists, whatever is given beside them."""
    return None if name is None else lambda given: {"key_value_train": gists.key_value_preset_changes(name)}


def train_presets(names: Iterable[TrainPreset] | None) -> Callable[[Values], Values]:
    """Values of the named presets of training; a later one wins over an earlier one."""
    chosen = [_TRAIN[name] for name in names or ()]
    return lambda given: reduce(_merged, (preset(given) for preset in chosen), {})


def small_preset_of(given: Values) -> Values:
    """Values of the small preset for the network that flags, --set, environment or file name."""
    network = given.get("train", {}).get("network", {}).get("name", train.TrainConfig().network.name)
    return {"train": train.small_preset_changes(network)}


def _specification_preset_of(given: Values) -> Values:
    """Values of the specification's trainer for the objective that flags, --set, environment or file name."""
    objective = given.get("train", {}).get("objective", {}).get("name", train.TrainConfig().objective.name)
    return {"train": train.specification_preset_changes(objective)}


def _dense_preset_of(given: Values) -> Values:
    return {"train": train.dense_preset_changes()}


_TRAIN: Mapping[TrainPreset, Callable[[Values], Values]] = {
    TrainPreset.SMALL: small_preset_of,
    TrainPreset.SPECIFICATION: _specification_preset_of,
    TrainPreset.DENSE: _dense_preset_of,
}


def _merged(one: Values, other: Values) -> Values:
    """Both, section by section."""
    merged = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
