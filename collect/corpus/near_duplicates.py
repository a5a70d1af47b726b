"""Index of near-duplicates: which documents share a whole band of their MinHash signatures.

The same answers as datasketch's MinHashLSH in a tenth of its memory: a hash per band and document, 12 bytes,
so that the driver of a run over millions of documents holds all of them.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from datasketch import MinHashLSH

_MOST_FRESH = 2**18
"""Bands kept in a dictionary before they are merged into the sorted arrays."""


@cache
def bands_of(threshold: float, num_values: int) -> tuple[int, int]:
    """Bands of a signature and values per band for which documents of Jaccard similarity `threshold` are
    found best (datasketch's choice)."""
    index = MinHashLSH(threshold=threshold, num_perm=num_values)
    return int(index.b), int(index.r)


class BandIndex:
    """Numbers of documents by the bands of their signatures."""

    def __init__(self, num_bands: int, band_size: int) -> None:
        self._ends = [(4 * i * band_size, 4 * (i + 1) * band_size) for i in range(num_bands)]
        self._fresh: dict[int, tuple[int, ...]] = {}
        self._num_fresh = 0
        self._keys = np.empty(0, dtype=np.int64)
        self._numbers = np.empty(0, dtype=np.int32)

    def keys(self, signature: npt.NDArray[np.uint32]) -> list[int]:
        """A 64-bit hash of each band, of use in this process only."""
        content = np.ascontiguousarray(signature, dtype=np.uint32).tobytes()
        return [hash((first, content[first:end])) for first, end in self._ends]

    def add(self, keys: Sequence[int], number: int) -> None:
        for key in keys:
            self._fresh[key] = (*self._fresh.get(key, ()), number)
        self._num_fresh += len(keys)
        if self._num_fresh >= _MOST_FRESH:
            self._merge()

    def find(self, keys: Sequence[int]) -> set[int]:
        """Numbers of the documents that have one of `keys`."""
        found = {number for key in keys for number in self._fresh.get(key, ())}
        if len(self._keys):
            wanted = np.array(keys, dtype=np.int64)
            first, end = np.searchsorted(self._keys, wanted), np.searchsorted(self._keys, wanted, "right")
            for i in np.flatnonzero(first < end):
                found.update(self._numbers[first[i] : end[i]].tolist())
        return found

    def _merge(self) -> None:
        keys = np.repeat(
            np.fromiter(self._fresh, np.int64, len(self._fresh)), [len(one) for one in self._fresh.values()]
        )
        numbers = np.fromiter((n for one in self._fresh.values() for n in one), np.int32, len(keys))
        order = np.argsort(keys, kind="stable")
        places = np.searchsorted(self._keys, keys[order], "right")
        self._keys = np.insert(self._keys, places, keys[order])
        self._numbers = np.insert(self._numbers, places, numbers[order])
        self._fresh, self._num_fresh = {}, 0
