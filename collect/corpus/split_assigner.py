"""Train, validation and test splits: near-duplicate groups by MinHash, and the split each group is in.

A split is decided once, by a hash of the document's near-duplicate group, so that copies of a file never end
up on both sides. GistNet and LensNet share the splits. `placement_commits.py` keeps them in the store.
"""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.near_duplicates import BandIndex, bands_of
from mctrace.datasets.store.schemas import SPLITS

BETWEEN_SPLITS = "near-duplicates of documents in two splits"
"""Reason for leaving out a document that can be on neither side of a split."""
_SHINGLE = 8
_SHINGLES_AT_ONCE = 4096
_MINHASH = {"num_perm": 128, "seed": 1, "scheme": "affine32", "hashfunc": int}
"""Part of the store's format: signatures of different schemes cannot be compared."""
_GONE = 255
"""In place of a split: the document counts no longer."""


def split_of(split_group: str, config: CorpusConfig) -> str:
    """The split of a near-duplicate group: a uniform number from its hash against the fractions."""
    uniform = int.from_bytes(hashlib.sha256(f"split {split_group}".encode()).digest()[:8]) / 2**64
    if uniform < config.test_fraction:
        return "test"
    return "validation" if uniform < config.test_fraction + config.validation_fraction else "train"


@dataclass(frozen=True)
class Placement:
    """Near-duplicate group, split and signature of a document: stored, so that later runs find
    near-duplicates.

    `split_group` is the id of the first document of its near-duplicate group, `minhash` the signature of its
    token 8-grams.
    """

    split_group: str
    split: str
    minhash: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Origin:
    """What a document was cut or made from: its id and the placement that it has alone."""

    document_id: str
    intended: Placement


class SplitAssigner:
    """Assign near-duplicate groups and splits, consistently with the documents already in the store.

    Holds some hundred bytes per document, not its signature. A placement is open until it is committed
    (`settle`): where another driver was first, open ones are decided again (`rebase`).
    """

    def __init__(self, config: CorpusConfig, known: Mapping[str, Placement]) -> None:
        self._config = config
        self._index = BandIndex(*self.bands)
        self._ids: list[str] = []
        self._number: dict[str, int] = {}
        self._group = array("i")
        self._split = bytearray()
        self._open: dict[str, tuple[Placement, Origin | None]] = {}
        for identity, placement in known.items():
            self._remember(identity, placement)

    @property
    def bands(self) -> tuple[int, int]:
        """Number of bands of a signature and values per band; documents that share a whole band are
        near-duplicates."""
        return bands_of(self._config.near_duplicate_threshold, _MINHASH["num_perm"])

    def place(self, identity: str, tokens: npt.NDArray[np.int32]) -> Placement | None:
        """The placement of a document; later calls for the same document give the same one.

        None for a near-duplicate of documents in two splits.
        """
        return self.place_as(identity, placed_alone(identity, tokens, self._config))

    def place_as(self, identity: str, intended: Placement, origin: Origin | None = None) -> Placement | None:
        """Placement of a document: `intended`, or the split of its near-duplicates among those placed
        already; with an origin, which is placed first, that of the origin.

        None for a document whose near-duplicates and origin are in two splits.
        """
        if identity not in self._number:
            if origin and self.place_as(origin.document_id, origin.intended) is None:
                return None
            keys = self._index.keys(intended.minhash)
            near = [i for i in self._index.find(keys) if self._split[i] != _GONE]
            own = [self._number[origin.document_id]] if origin else []
            if len({self._split[i] for i in (*near, *own)}) > 1:
                return None
            found = intended
            if near or own:
                like = min(own or near, key=self._ids.__getitem__)
                found = replace(
                    intended, split_group=self._ids[self._group[like]], split=SPLITS[self._split[like]]
                )
            self._remember(identity, found, keys)
            self._open[identity] = (intended, origin)
        return self.placement_of(identity, intended.minhash)

    def placement_of(self, identity: str, minhash: npt.NDArray[np.uint32]) -> Placement | None:
        """The present placement of a document with this signature; None where it has none."""
        number = self._number.get(identity)
        if number is None:
            return None
        return Placement(self._ids[self._group[number]], SPLITS[self._split[number]], minhash)

    def is_open(self, identity: str) -> bool:
        """Whether the document's placement is not committed."""
        return identity in self._open

    def is_settled(self, identity: str) -> bool:
        """Whether the document's placement is committed."""
        return identity in self._number and identity not in self._open

    def settle(self, identities: Iterable[str]) -> None:
        """From now on these placements are committed."""
        for identity in identities:
            self._open.pop(identity, None)

    def rebase(self, others: Mapping[str, Placement]) -> None:
        """Take in what others have committed, and place everything open again in its order."""
        pending, self._open = self._open, {}
        for identity in pending:
            self._split[self._number.pop(identity)] = _GONE
        for identity, placement in others.items():
            if identity not in self._number:
                self._remember(identity, placement)
        for identity, (intended, origin) in pending.items():
            self.place_as(identity, intended, origin)
            if identity in others:
                self.settle([identity])

    def _remember(self, identity: str, placement: Placement, keys: Sequence[int] | None = None) -> None:
        number = self._number[identity] = self._new(identity, placement.split)
        if placement.split_group != identity:
            group = self._number.get(placement.split_group)
            # A first document that was withdrawn has a name and nothing else.
            self._group[number] = self._new(placement.split_group, None) if group is None else group
        self._index.add(self._index.keys(placement.minhash) if keys is None else keys, number)

    def _new(self, identity: str, split: str | None) -> int:
        self._ids.append(identity)
        self._group.append(len(self._ids) - 1)
        self._split.append(_GONE if split is None else SPLITS.index(split))
        return len(self._ids) - 1


def placed_alone(identity: str, tokens: npt.NDArray[np.int32], config: CorpusConfig) -> Placement:
    """The placement of a document that has no near-duplicates: a group of its own."""
    return Placement(identity, split_of(identity, config), minhash_of(tokens))


def minhash_of(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
    """The signature of a document's token 8-grams [128]: datasketch's `MinHash`, in a third of its time."""
    content = np.ascontiguousarray(tokens, dtype=np.int32).tobytes()
    size = 4 * min(_SHINGLE, len(tokens))
    factor_P1, summand_P1 = _permutations()
    signature_P = np.full(len(factor_P1), 2**32 - 1, dtype=np.uint32)
    for first in range(0, len(content) - size + 1, 4 * _SHINGLES_AT_ONCE):
        end = min(first + 4 * _SHINGLES_AT_ONCE, len(content) - size + 1)
        # Permutations first: each one's minimum is then over neighbours in memory.
        permuted_PS = factor_P1 * _hashes([content[i : i + size] for i in range(first, end, 4)])
        permuted_PS += summand_P1
        np.minimum(signature_P, permuted_PS.min(axis=1), out=signature_P)
    return signature_P


@cache
def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Factors and summands [P, 1] of datasketch's affine permutations."""
    factor_P, summand_P = MinHash(**_MINHASH).permutations
    return factor_P[:, None], summand_P[:, None]


def _hashes(shingles: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """The first four bytes of each shingle's SHA-1 [S] through MurmurHash3's finalizer, as in datasketch."""
    starts = b"".join([hashlib.sha1(shingle, usedforsecurity=False).digest()[:4] for shingle in shingles])
    mixed_S = np.frombuffer(starts, dtype="<u4").astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed_S ^= mixed_S >> np.uint32(shift)
        mixed_S *= np.uint32(factor)
    return mixed_S ^ (mixed_S >> np.uint32(16))
