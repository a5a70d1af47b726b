"""Findings of a scene, and the comparison of a store with that of an undisturbed run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep.verify import Problem, verify
from mctrace.progress import Silent


class SceneError(Exception):
    """A scene cannot go on: a command ended as it must not."""


@dataclass
class Findings:
    """What a scene did and what it found; only the kinds in `BAD` must be 0."""

    kills: int = 0
    lost: int = 0
    """parts that the ledger lacks, and files that should be there"""
    duplicated: int = 0
    """trajectories that a reader sees twice"""
    dangling: int = 0
    """problems that `mctrace verify` finds, and scratch that nothing removes"""
    rows_differ: int = 0
    """labels that are missing, extra, or off by more than the recorded noise floor; files with other bytes"""
    unclear: int = 0
    """endings that were not as promised: an exit code, a recorded outcome or a message"""
    parts_repeated: int = 0
    """measured more than once because a kill came between the writing and the commit"""
    damages_tried: int = 0
    damages_unnoticed: int = 0
    jail_attempts: int = 0
    jail_escapes: int = 0
    bad_inputs: int = 0
    bad_inputs_unclear: int = 0

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def bad(self) -> dict[str, int]:
        """What must be 0 and is not."""
        return {name: asdict(self)[name] for name in BAD if asdict(self)[name]}

    def is_clean(self) -> bool:
        return not self.bad()


BAD = (
    "lost", "duplicated", "dangling", "rows_differ", "unclear", "damages_unnoticed", "jail_escapes",
    "bad_inputs_unclear",
)  # fmt: skip


def opened(folder: Path) -> Store:
    return open_store(str(folder))


def problems(store: Store) -> list[Problem]:
    """What `mctrace verify` finds in the newest version, hashes and references included."""
    return list(verify(store.at(), quick=False, progress=Silent()))


@dataclass(frozen=True)
class Contents:
    """What is compared of a store's newest version."""

    part_ids: frozenset[str]
    """of all measured parts but the runs' own records"""
    labels: Mapping[tuple[object, ...], float]
    times_stored: Mapping[str, int]
    """by trajectory"""
    noise_floor: float


_LABEL_KEYS = ("trajectory_id", "cursor", "action", "node_level", "node_index", "estimator")


def contents_of(store: Store) -> Contents:
    version = store.at()
    with connect(version) as connection:
        labels = fetch_rows(connection, "from labels")
        stored = fetch_rows(connection, "from stored_trajectories")
        floors = fetch_rows(connection, "select noise_floor from runs where noise_floor is not null")
    return Contents(
        frozenset(c.part.part_id for c in version.parts if c.part.kind != "run"),
        {tuple(row[key] for key in _LABEL_KEYS): row["delta_nll"] for row in labels},
        Counter(row["trajectory_id"] for row in stored),
        max((max(row["noise_floor"].values()) for row in floors), default=0.0),
    )


@lru_cache(maxsize=16)
def _contents_at(root: str, version: int) -> Contents:
    return contents_of(open_store(root))


def compare(store: Store, expected: Store) -> Findings:
    """What `store` lacks, has twice, has damaged or has otherwise than `expected`."""
    found = contents_of(store)
    right = _contents_at(expected.location.root, expected.ledger.version())
    tolerance = max(found.noise_floor, right.noise_floor)
    both = found.labels.keys() & right.labels.keys()
    differing = found.labels.keys() ^ right.labels.keys()
    differing |= {key for key in both if abs(found.labels[key] - right.labels[key]) > tolerance}
    return Findings(
        lost=len(right.part_ids - store.at().part_ids),
        duplicated=sum(count - 1 for count in found.times_stored.values()),
        dangling=len(problems(store)),
        rows_differ=len(differing),
    )


def parts_repeated(store: Store) -> int:
    """Folders of trajectories beyond one for each."""
    folders = len(list(Path(store.location.root).glob("parts/trajectory/*/*")))
    return folders - len(fetch_rows(connect(store.at()), "select distinct trajectory_id from trajectories"))
