"""`manifest.json`: names, sizes and sha256 of the files of a checkpoint folder, written with them.

A flipped bit in a weight changes scores without raising an error, so readers compare files with the manifest.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of the files of `folder` with these names."""
    files = [_entry(folder / name) for name in sorted(names)]
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def check_manifest(folder: Path, names: Iterable[str]) -> None:
    """Compare the files `names` with the folder's manifest; raises ValueError naming one that differs.

    A folder without a manifest (written by an earlier release) is accepted; once the rest of it turned out to
    be readable, `warn_if_unchecked` says so.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        listed = {entry["path"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read ({error!r}): copy the folder again") from error
    for name in names:
        if wrong := _difference(folder / name, listed.get(name)):
            raise ValueError(
                f"{name} {wrong}: copy the folder again, or delete its {MANIFEST} if you changed it yourself"
            )


def warn_if_unchecked(folder: Path) -> None:
    """Warn, once per folder, where there is no manifest with which files could be compared."""
    if not (folder / MANIFEST).is_file():
        _warn_once(folder.resolve())


def _difference(path: Path, listed: dict[str, object] | None) -> str | None:
    if listed is None:
        return f"is not listed in {MANIFEST}"
    if not path.is_file():
        return f"is missing, though {MANIFEST} lists it"
    found = _entry(path)
    if found["size"] != listed.get("size"):
        return f"has {found['size']} bytes, {MANIFEST} says {listed.get('size')}"
    return None if found == listed else f"has another sha256 than {MANIFEST} says"


def _entry(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.name, "size": path.stat().st_size, "sha256": digest}


@cache
def _warn_once(folder: Path) -> None:
    _log.warning("%s has no %s: its files cannot be checked", folder, MANIFEST)
