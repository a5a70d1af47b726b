"""A trained LensNet on disk: a folder with `model.safetensors` and `config.json`, whole or absent.

`config.json` holds a `CheckpointInfo`, so that a checkpoint says by itself which network it is, which data
and targets it learned from, and in which unit it scores. A step's checkpoint also holds what its run needs
to go on (`training_state.py`). Nothing is pickled.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from mctrace.datasets.sql.merging import is_signed, merge_of
from mctrace.errors import InputError
from mctrace.train.config import TrainConfig
from mctrace.train.distribution import Workers
from mctrace.train.loop.checkpoint_folders import BEST, Save, keeping_last, whole_folder, write_folder
from mctrace.train.loop.manifest import check_manifest
from mctrace.train.loop.training_state import TrainingState
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network
from mctrace.train.networks.weights import read_weights

SCHEMA_VERSION = 4
"""2 has the target's text, and networks of other kinds; in 3 the text says how entries merge, not the name"""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What has to be known of a checkpoint besides its weights; everything in it is plain JSON."""

    network: NetworkConfig
    embedding_dim: int
    """width of the base model's embeddings"""
    block_size: int
    """K of the trees it was trained on"""
    max_level: int
    utility_scale: float
    """nats per unit of score"""
    target: str
    """name of the target definition"""
    dataset: Mapping[str, str | int]
    """where the labels come from: store uri and version, model, tokenizer and gist hashes, and so on; of a
    mixture each hash as `Provenance.of_all` joins them"""
    training: Mapping[str, Any]
    """the whole `TrainConfig` as it was, for the record"""
    step: int = 0
    metrics: Mapping[str, float] | None = None
    """validation values at `step`; None when not evaluated by then"""
    schema_version: int = SCHEMA_VERSION
    target_sql: str = ""
    """the target's text, which says more than its name; empty in checkpoints of schema version 1"""

    @property
    def signed(self) -> bool:
        """Whether its scores' signs say what to do; else they are values of detail.

        Pairs of variants teach signs whatever the target.
        """
        learned_pairs = self.training.get("objective", {}).get("name") == "preference"
        return learned_pairs or is_signed(merge_of(self.target_sql, self.target))

    @property
    def dataset_version(self) -> int:
        """The version of the store that it learned from."""
        return int(self.dataset["version"])

    @property
    def derived_dataset(self) -> str | None:
        """Name of the derived dataset that it learned from; None for the store's own labels."""
        name = self.dataset.get("derived")
        return None if name is None else str(name)


def describe(
    config: TrainConfig,
    *,
    embedding_dim: int,
    block_size: int,
    max_level: int,
    utility_scale: float,
    dataset: Mapping[str, str | int],
    target_sql: str,
) -> CheckpointInfo:
    """The part of a checkpoint's info that stays the same during a run."""
    return CheckpointInfo(
        network=config.network,
        embedding_dim=embedding_dim,
        block_size=block_size,
        max_level=max_level,
        utility_scale=utility_scale,
        target=config.target,
        dataset=dataset,
        training=json.loads(json.dumps(asdict(config))),  # tuples become lists, as they come back
        target_sql=target_sql,
    )


def checkpoint_writer(
    root: Path,
    network: LensNet,
    info: CheckpointInfo,
    keep_last: int,
    *,
    state: TrainingState | None = None,
    workers: Workers | None = None,
    earlier: Sequence[Path] = (),
) -> Save:
    """The `save` that a run wants: writes `root/<name>` and keeps `best` and the last `keep_last` others.

    With `state` the others hold what the run needs to go on. Every worker has to call it, the first writes.
    `earlier` are those that the same run left before it was stopped.
    """
    workers = workers or Workers()
    tensors: dict[str, torch.Tensor] = {}

    def also(folder: Path) -> None:
        if state is not None and tensors:
            state.write(folder, tensors)

    def write(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        save_checkpoint(folder, network, replace(info, step=step, metrics=dict(metrics) or None), also)

    keep = keeping_last(root, write, keep_last, earlier)

    def save(name: str, step: int, metrics: Mapping[str, float]) -> None:
        tensors.clear()
        if state is not None and name != BEST:
            tensors.update(state.tensors(workers))
        if workers.is_first:
            keep(name, step, metrics)

    return save


def save_checkpoint(
    folder: Path,
    network: LensNet,
    info: CheckpointInfo,
    also: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a checkpoint to `folder`, replacing one that is there (see `write_folder`); `also` adds files."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}

    def fill(fresh: Path) -> None:
        save_file(weights, fresh / WEIGHTS)
        (fresh / CONFIG).write_text(json.dumps(asdict(info), indent=2, allow_nan=False), encoding="utf-8")
        also(fresh)

    write_folder(folder, fill)


def load_checkpoint(folder: Path) -> tuple[LensNet, CheckpointInfo]:
    """The network of a checkpoint, on the CPU and in evaluation mode, and what is known of it.

    Raises InputError when the folder is missing, is not a checkpoint, is from a newer mctrace, or its weights
    are damaged or belong to another network.
    """
    folder = whole_folder(folder)
    if (folder / BEST).is_dir():
        raise InputError(f"{folder} is a run, not a checkpoint: give {folder / BEST}")
    info = _read_info(folder)
    network = build_network(info.network, info.embedding_dim)
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS, network.state_dict()))
    except ValueError as error:
        raise InputError(f"{folder} does not hold a LensNet: {error}") from error
    return network.eval(), info


def _read_info(folder: Path) -> CheckpointInfo:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder} is not a LensNet checkpoint: it has no {CONFIG}. Give the folder that "
            "`mctrace train` wrote, such as runs/<name>/best"
        )
    try:
        check_manifest(folder, (CONFIG, WEIGHTS))
    except ValueError as error:
        raise InputError(f"{folder} is damaged: {error}") from error
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version > SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version}, this mctrace reads up to {SCHEMA_VERSION}: "
                "upgrade mctrace"
            )
        if version == 2 and raw["target"].startswith("literal"):
            with_line = re.sub(r"\A(--.*\n)*", r"\g<0>-- merge: largest\n", raw["target_sql"])
            raw |= {"target_sql": with_line}
        if version < 4:
            raw |= {"network": {"match_tail": False, **raw["network"]}}
        raw |= {"schema_version": SCHEMA_VERSION}
        known = {
            field.name: raw[field.name]
            for field in fields(CheckpointInfo)
            if field.name in raw or field.default is MISSING
        }
        return CheckpointInfo(**{**known, "network": NetworkConfig(**raw["network"])})
    except InputError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as a checkpoint's description ({error!r}): copy the folder again"
        ) from error
