"""The folders that travel: exports of labels, LensNet checkpoints and GistNets, told apart by their files.

Each kind is data alone: Parquet, JSON, Markdown and safetensors. Names that are not of its kind stay behind,
both ways.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from mctrace.datasets.export.export import METADATA
from mctrace.errors import InputError, MctraceError, brief
from mctrace.gists.network.transformer_gistnet import TransformerGistNet
from mctrace.hub import RepoKind, is_safe_name
from mctrace.train.checkpoints.atomic_folder import latest_whole_folder
from mctrace.train.checkpoints.lensnet_checkpoint import CONFIG, WEIGHTS, load_checkpoint
from mctrace.train.checkpoints.manifest import MANIFEST

FolderKind = Literal["labels", "LensNet", "GistNet"]
CARD = "README.md"
_OF_LABELS = (".parquet",)
_OF_NETWORKS = (CONFIG, WEIGHTS, MANIFEST, "training.json", "evaluation.json", "notes.md", "MODEL_CARD.md")
"""beside the card; a checkpoint's resume state stays at home"""
SUFFIXES = (*_OF_LABELS, ".json", ".md", ".safetensors")
"""of any file that travels"""


@dataclass(frozen=True)
class SharedFolder:
    """A folder of one of the kinds, and the names in it that travel, its card aside."""

    folder: Path
    kind: FolderKind
    names: tuple[str, ...]

    @property
    def repo_kind(self) -> RepoKind:
        return "dataset" if self.kind == "labels" else "model"


def recognise(folder: Path) -> SharedFolder | None:
    """The folder as one of the kinds; None where it is none of them. Raises InputError for a damaged one."""
    folder = latest_whole_folder(folder)
    if (folder / METADATA).is_file():
        tables = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_file())
        return SharedFolder(folder, "labels", (METADATA, *(n for n in tables if is_safe_name(n, _OF_LABELS))))
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        return None
    kind: FolderKind = "LensNet" if "network" in read_json(folder / CONFIG) else "GistNet"
    return SharedFolder(folder, kind, tuple(name for name in _OF_NETWORKS if (folder / name).is_file()))


def is_wanted(name: str) -> bool:
    """True for a name that a folder of one of the kinds could have."""
    return name in (CARD, METADATA, *_OF_NETWORKS) or is_safe_name(name, _OF_LABELS)


def check_whole(shared: SharedFolder) -> None:
    """Raises InputError when the folder is not what its own records say.

    A network is loaded, which compares its files with their manifest; of labels, the rows of every split of
    every table are counted.
    """
    if shared.kind == "labels":
        _check_rows(shared)
        return
    try:
        load = load_checkpoint if shared.kind == "LensNet" else TransformerGistNet.from_pretrained
        load(shared.folder)
    except MctraceError as error:
        raise InputError(str(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {brief(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return found


def _check_rows(shared: SharedFolder) -> None:
    about = read_json(shared.folder / METADATA)
    if about.get("format") != "parquet":
        raise InputError(
            f"{shared.folder} is an export as {about.get('format')}: labels travel as Parquet "
            "(mctrace export --format parquet)"
        )
    found: dict[str, dict[str, int]] = {}
    for name in shared.names[1:]:
        table, _, file = name.partition("/")
        split = file.partition("-")[0]
        try:
            rows = pq.read_metadata(shared.folder / name).num_rows
        except (OSError, ValueError) as error:
            raise InputError(f"{shared.folder / name} is no whole Parquet file: {brief(error)}") from error
        splits = found.setdefault(table, {})
        splits[split] = splits.get(split, 0) + rows
    if found != about.get("num_rows"):
        raise InputError(f"{shared.folder} has rows {found}, its {METADATA} says {about.get('num_rows')}")
