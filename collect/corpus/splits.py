"""Train, validation and test splits: near-duplicate groups by MinHash, and the split each group is in.

A split is decided once, by a hash of the document's near-duplicate group, so that copies of a file never end
up on both sides. GistNet and LensNet share the splits. `placement_commits.py` keeps them in the store.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from mctrace.collect.config import CorpusConfig

BETWEEN_SPLITS = "near-duplicates of documents in two splits"
"""Reason for leaving out a document that can be on neither side of a split."""
_SHINGLE = 8
_SHINGLES_AT_ONCE = 4096
_MINHASH = {"num_perm": 128, "seed": 1, "scheme": "affine32"}
"""Part of the store's format: signatures of different schemes cannot be compared."""


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


class SplitAssigner:
    """Assign near-duplicate groups and splits, consistently with the documents already in the store."""

    def __init__(self, config: CorpusConfig, known: Mapping[str, Placement]) -> None:
        self._config = config
        self._index = MinHashLSH(threshold=config.near_duplicate_threshold, num_perm=_MINHASH["num_perm"])
        self._placed: dict[str, Placement] = {}
        for identity, placement in known.items():
            self._remember(identity, placement)

    @property
    def bands(self) -> tuple[int, int]:
        """Number of bands of a signature and values per band; documents that share a whole band are
        near-duplicates."""
        return int(self._index.b), int(self._index.r)

    def place(self, identity: str, tokens: npt.NDArray[np.int32]) -> Placement | None:
        """The placement of a document; later calls for the same document give the same one.

        None for a near-duplicate of documents in two splits.
        """
        if identity in self._placed:
            return self._placed[identity]
        alone = Placement(identity, split_of(identity, self._config), minhash_of(tokens))
        return self.place_as(identity, alone)

    def place_as(self, identity: str, intended: Placement) -> Placement | None:
        """Placement of a document: `intended`, or the split of its near-duplicates among those placed
        already."""
        if identity not in self._placed:
            near = sorted(self._index.query(_as_minhash(intended.minhash)))
            if len({self._placed[one].split for one in near}) > 1:
                return None
            if near:
                like = self._placed[near[0]]
                intended = replace(intended, split_group=like.split_group, split=like.split)
            self._remember(identity, intended)
        return self._placed[identity]

    def _remember(self, identity: str, placement: Placement) -> None:
        self._placed[identity] = placement
        self._index.insert(identity, _as_minhash(placement.minhash))


def minhash_of(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
    """The signature of a document's token 8-grams [128]."""
    shingles = np.lib.stride_tricks.sliding_window_view(tokens, min(_SHINGLE, len(tokens)))
    minhash = MinHash(**_MINHASH)
    for first in range(0, len(shingles), _SHINGLES_AT_ONCE):
        minhash.update_batch([one.tobytes() for one in shingles[first : first + _SHINGLES_AT_ONCE]])
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


def _as_minhash(signature: npt.NDArray[np.uint32]) -> MinHash:
    return MinHash(**_MINHASH, hashvalues=signature)
