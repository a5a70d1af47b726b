"""LensNet checkpoints: a folder with `model.safetensors` and `config.json`, written atomically.

`config.json` holds a `CheckpointInfo`: the network, the data and target it was trained on, and the unit of
its scores. Step checkpoints also hold the resume state (`loop/resume_state.py`). Nothing is pickled.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mctrace.context.tree import Absence
from mctrace.datasets.sql.target_merging import is_signed, learns_price, merge_of
from mctrace.errors import InputError
from mctrace.hub import is_repo_name, pretrained_folder
from mctrace.train.checkpoints.atomic_folder import latest_whole_folder, write_folder
from mctrace.train.checkpoints.manifest import MANIFEST, check_manifest, warn_if_unchecked
from mctrace.train.checkpoints.retention import BEST
from mctrace.train.checkpoints.weights import read_weights
from mctrace.train.config import TrainConfig
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network

_NOT_HASHED = (MANIFEST, "README.md")
"""files beside a checkpoint's own: what they are, and the card that a hub shows"""
SCHEMA_VERSION = 7
"""2 added the target's text and other kinds of network; 3 takes the merge of entries from that text, not from
the target's name; 4 added `match_tail`; 5 added `absence` and networks with a price; 6 added
`gist_positions`; 7 added `match_words`"""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """Description of a checkpoint, beside its weights; plain JSON."""

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
    """provenance of the labels: store uri and version, model, tokenizer and gist hashes, and so on; for a
    mixture each hash as `Provenance.of_all` joins them"""
    training: Mapping[str, Any]
    """the complete `TrainConfig` of the run"""
    step: int = 0
    metrics: Mapping[str, float] | None = None
    """validation values at `step`; None when it was not evaluated there"""
    schema_version: int = SCHEMA_VERSION
    target_sql: str = ""
    """SQL text of the target; empty in checkpoints of schema version 1"""
    absence: Absence = "off"
    """`tree.absence` of the labels it was trained on; off in checkpoints before schema version 5"""
    gist_positions: int = 1
    """positions that a gist took there; 1 in checkpoints before schema version 6"""

    @property
    def signed(self) -> bool:
        """True if a score's sign chooses expand or collapse; False if scores are values of detail.

        Preference pairs teach signed scores whatever the target.
        """
        return self._learned_pairs_only or is_signed(merge_of(self.target_sql, self.target))

    @property
    def has_price(self) -> bool:
        """True if the network gives a value for each direction and a price of a position."""
        return not self._learned_pairs_only and learns_price(merge_of(self.target_sql, self.target))

    @property
    def _learned_pairs_only(self) -> bool:
        return bool(self.training.get("objective", {}).get("name") == "preference")

    @property
    def dataset_version(self) -> int:
        """Version of the store that the network was trained on."""
        return int(self.dataset["version"])

    @property
    def derived_dataset(self) -> str | None:
        """Name of the derived dataset that the network was trained on; None for the store's own labels."""
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
    absence: Absence = "off",
    gist_positions: int = 1,
) -> CheckpointInfo:
    """The part of a `CheckpointInfo` that stays constant during a run."""
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
        absence=absence,
        gist_positions=gist_positions,
    )


def save_checkpoint(
    folder: Path,
    network: LensNet,
    info: CheckpointInfo,
    write_more: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a checkpoint to `folder` atomically, replacing an existing one; `write_more` adds files."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}

    def fill(fresh: Path) -> None:
        save_file(weights, fresh / WEIGHTS)
        (fresh / CONFIG).write_text(json.dumps(asdict(info), indent=2, allow_nan=False), encoding="utf-8")
        write_more(fresh)

    write_folder(folder, fill)


def load_checkpoint(source: Path | str) -> tuple[LensNet, CheckpointInfo]:
    """The network of a checkpoint, on the CPU and in evaluation mode, and its description.

    `source` is a folder, or the name of a model on a hub ("organisation/name"), of which only the files of a
    checkpoint are downloaded, once; a folder wins over a name. Raises InputError when it is missing, is not a
    checkpoint, was written by a newer mctrace, or its weights are damaged or belong to another network.
    """
    if isinstance(source, str) and is_repo_name(source) and not Path(source).exists():
        source = pretrained_folder(source, (CONFIG, WEIGHTS, MANIFEST))
    folder = latest_whole_folder(Path(source))
    if (folder / BEST).is_dir():
        raise InputError(f"{folder} is a run, not a checkpoint: give {folder / BEST}")
    info = _read_info(folder)
    network = build_network(info.network, info.embedding_dim, absence=info.absence, price=info.has_price)
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS, network.state_dict()))
    except ValueError as error:
        raise InputError(f"{folder} does not hold a LensNet: {error}") from error
    warn_if_unchecked(folder)
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
        if version < 7:
            raw |= {"network": {"match_words": False, **raw["network"]}}
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


def checkpoint_hash(folder: Path) -> str:
    """sha256 over the contents of the checkpoint's files (weights, description) in name order."""
    digest = hashlib.sha256()
    for file in sorted(latest_whole_folder(folder).iterdir()):
        if file.is_file() and file.name not in _NOT_HASHED:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def checkpoint_name(folder: Path) -> str:
    """Display name of a checkpoint: the run's name for its `best`, the folder's path for any other."""
    return folder.resolve().parent.name if folder.name == BEST else str(folder)
