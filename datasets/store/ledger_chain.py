"""The ledger's log as a chain, and its head: what makes an altered, a missing and a cut log show.

Delta keeps no checksum of its log, and a log without its last entries is a valid, older one. So the commit
information of every version says which entry it stands upon (`previous`: version and sha256) and which head
it saw (`head`); and beside the ledger, `head/` holds one empty file whose NAME is the record of the newest
version:

    head/VERSION-SHA256[-VERSION-SHA256]     the newest entry, and the newest checkpoint with its hash

A committer appends its entry to the log, where Delta lets one of two through; writes its head, under a name
that nobody else writes; and removes the heads it has read before. So the newest head never moves back,
whoever is slower, on a disk and on an object store alike. A crash between entry and head leaves a head that
is behind: harmless, since only a head AHEAD of the log says that entries are gone. A head that is behind what
an entry saw says that heads are gone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parquet_bytes import read_parquet
from mctrace.errors import StoreError

FOLDER = "ledger"
LOG_FOLDER = f"{FOLDER}/_delta_log"
HEAD_FOLDER = "head"
PREVIOUS = "previous"
"""Commit metadata: version and sha256 of the log entry that a commit stands upon."""
HEAD = "head"
"""Commit metadata: the newest head that its committer saw, by name; null where there was none."""

_HEAD_NAME = re.compile(r"(\d{20})-([0-9a-f]{64})(?:-(\d{20})-([0-9a-f]{64}))?")
_LOG_NAME = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True, order=True)
class Sealed:
    """A version's log entry, or checkpoint, and the hash of its content."""

    version: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.version:020}-{self.sha256}"


@dataclass(frozen=True, order=True)
class Head:
    """The newest version a committer knows of, and the newest checkpoint."""

    entry: Sealed
    checkpoint: Sealed | None = None

    @property
    def name(self) -> str:
        return f"{self.entry}-{self.checkpoint}" if self.checkpoint else str(self.entry)

    @property
    def place(self) -> str:
        return f"{HEAD_FOLDER}/{self.name}"

    @classmethod
    def of(cls, name: str) -> "Head | None":
        """None for a name that is no head."""
        if not (found := _HEAD_NAME.fullmatch(name)):
            return None
        version, digest, checkpoint_version, checkpoint_digest = found.groups()
        checkpoint = Sealed(int(checkpoint_version), checkpoint_digest) if checkpoint_digest else None
        return cls(Sealed(int(version), digest), checkpoint)


def log_entry(version: int) -> str:
    """The file that made a version, relative to the store."""
    return f"{LOG_FOLDER}/{version:020}.json"


def checkpoint(version: int) -> str:
    """The file that repeats what the log says up to a version."""
    return f"{LOG_FOLDER}/{version:020}.checkpoint.parquet"


def read_heads(location: Location) -> list[Head]:
    """All heads, oldest first; more than one for a moment only. One listing."""
    names = (place.rsplit("/", 1)[1] for place in location.sizes(HEAD_FOLDER))
    return sorted((head for head in map(Head.of, names) if head), key=lambda head: head.entry)


def write_head(location: Location, entry: Sealed, made: Sealed | None, seen: Sequence[Head]) -> None:
    """Writes the head of a version and removes those that were `seen` before; `made`: a new checkpoint."""
    checkpoints = [head.checkpoint for head in seen if head.checkpoint] + ([made] if made else [])
    new = Head(entry, max(checkpoints, default=None))
    location.write_bytes(new.place, b"")
    for head in seen:
        if head.entry < entry:
            location.remove_file(head.place)


def seal(location: Location, version: int) -> Sealed:
    """A version's log entry as it is now. Raises StoreError when it cannot be read."""
    try:
        return Sealed(version, sha256(location.read_bytes(log_entry(version))).hexdigest())
    except OSError as error:
        raise StoreError(f"{location.uri}/{log_entry(version)} cannot be read: {error}") from error


def refuse_cut(location: Location, version: int, heads: Sequence[Head]) -> None:
    """Raises StoreError when the log, whose newest version is given, is not what its newest head says."""
    if not heads:
        return
    newest = heads[-1]
    remedy = (
        f"put it back from a copy; to go on without it, remove {location.uri}/{newest.place} (mctrace verify)"
    )
    place = log_entry(newest.entry.version)
    if newest.entry.version > version:
        raise StoreError(
            f"the ledger of {location.uri} is cut: {place} is missing, though version {newest.entry.version} "
            f"was made, and {version} is the newest that is left: {remedy}"
        )
    if newest.entry.version == version and seal(location, version) != newest.entry:
        raise StoreError(f"the ledger of {location.uri} is damaged: {place} was altered: {remedy}")


@dataclass(frozen=True)
class Log:
    """Every entry of the log by version, as it is now."""

    contents: Mapping[int, bytes]

    @classmethod
    def read(cls, location: Location) -> "Log":
        names = (place.rsplit("/", 1)[1] for place in location.sizes(LOG_FOLDER))
        versions = sorted(int(found[1]) for found in map(_LOG_NAME.fullmatch, names) if found)
        contents = location.each(lambda version: location.read_bytes(log_entry(version)), versions)
        return cls(dict(zip(versions, contents, strict=True)))

    def info(self, version: int) -> Mapping[str, Any]:
        """What a version's committer said of it; empty where that cannot be read."""
        try:
            actions = [json.loads(line) for line in self.contents.get(version, b"").splitlines()]
            return next((a["commitInfo"] for a in actions if isinstance(a["commitInfo"], dict)), {})
        except (ValueError, KeyError, TypeError):
            return {}


def chain_problems(location: Location, log: Log) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) of entries, heads and checkpoints that are not as others say they were."""
    heads = read_heads(location)
    newest = max([*log.contents, *(head.entry.version for head in heads)], default=-1)
    claims = {head.entry.version: (head.entry.sha256, head.place) for head in heads}
    checkpoints = {head.checkpoint for head in heads if head.checkpoint}
    yield from ((place, "is no head") for place in _not_heads(location))
    for version in range(newest, -1, -1):
        place, content = log_entry(version), log.contents.get(version)
        if content is None:
            yield place, "is missing"
            continue
        claimed, by = claims.get(version, (None, ""))
        if claimed and sha256(content).hexdigest() != claimed:
            yield place, f"has other content than {by} says"
            continue  # what an altered entry says of others is nothing to go by
        info = log.info(version)
        if before := _previous(info):
            claims.setdefault(before.version, (before.sha256, place))
        if seen := Head.of(str(info.get(HEAD))):
            if seen.checkpoint:
                checkpoints.add(seen.checkpoint)
            if version == newest and not any(head.entry >= seen.entry for head in heads):
                own = Head(Sealed(version, sha256(content).hexdigest()), seen.checkpoint)
                yield own.place, f"is missing, and so is {seen.place}, upon which {place} was made"
    yield from _checkpoint_problems(location, checkpoints)
    yield from _pointer_problems(location, expected=bool(checkpoints))


def _not_heads(location: Location) -> list[str]:
    found = location.sizes(HEAD_FOLDER)
    # A committer that was killed leaves the scratch file of its head.
    names = {place: place.rsplit("/", 1)[1] for place in found}
    return [
        place
        for place, name in names.items()
        if not name.startswith(".") and (Head.of(name) is None or found[place])
    ]


def _previous(info: Mapping[str, Any]) -> Sealed | None:
    found = info.get(PREVIOUS)
    return Sealed(int(found["version"]), str(found["sha256"])) if isinstance(found, dict) else None


def _checkpoint_problems(location: Location, checkpoints: set[Sealed]) -> Iterator[tuple[str, str]]:
    for one in sorted(checkpoints):
        place = checkpoint(one.version)
        try:
            content = location.read_bytes(place)
        except FileNotFoundError:
            yield place, "is missing"
            continue
        if sha256(content).hexdigest() != one.sha256:
            yield place, "has other content than when it was made"


_POINTER_KEYS = {
    "version", "size", "sizeInBytes", "numOfAddFiles", "parts", "checkpointSchema", "checksum", "tags",
}  # fmt: skip
"""Of `_last_checkpoint`, as Delta's protocol has it."""


def _pointer_problems(location: Location, *, expected: bool) -> Iterator[tuple[str, str]]:
    """Delta writes `_last_checkpoint` anew with every checkpoint, so it is held against the one it names."""
    place = f"{LOG_FOLDER}/_last_checkpoint"
    if not location.exists(place):
        if expected:
            yield place, "is missing"
        return
    try:
        said = json.loads(location.read_bytes(place))
        content = location.read_bytes(checkpoint(said["version"]))
        adds = read_parquet(content)["add"].to_pylist()
        num_adds = sum(row is not None and row["path"] is not None for row in adds)
        right = {"size": len(adds), "sizeInBytes": len(content), "numOfAddFiles": num_adds}
        wrong = set(said) - _POINTER_KEYS | {key for key in right if said.get(key, right[key]) != right[key]}
    except (ValueError, KeyError, TypeError, pa.ArrowException, OSError) as error:
        yield place, f"or the checkpoint that it names cannot be read: {type(error).__name__}: {error}"
        return
    if wrong:
        yield place, f"says of the checkpoint what is not so: {', '.join(sorted(wrong))}"
