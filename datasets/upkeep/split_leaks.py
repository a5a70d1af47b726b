"""Detection of split leaks: near-duplicate documents of a store that lie in different splits.

Two documents are near-duplicates where their signatures share one whole band and agree in at least
`threshold` of their values: the criterion, with the same bands, by which they were placed.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import StoreVersion

_NUM_VALUES = 128
"""of a signature"""
_BANDS_OF_BEFORE = (0.7, 14, 9)
"""Threshold, number and size of bands with which documents were placed before stores recorded it."""

_DOCUMENTS = """
    select document_id, any_value(split) as split, any_value(minhash) as minhash, count(distinct split) as n
    from (
        select document_id, split, minhash from stored_documents
        union all select document_id, split, minhash from stored_placements
    )
    group by document_id order by document_id"""

_BANDS = (
    "select distinct threshold, num_bands, band_size from stored_placements order by threshold desc limit 1"
)


def split_leaks(version: StoreVersion) -> Iterator[str]:
    """Problems of the version's splits, in words. Raises StoreError when its tables cannot be read."""
    connection = connect(version)
    documents = fetch_rows(connection, _DOCUMENTS)
    torn = [row["document_id"] for row in documents if row["n"] > 1]
    if torn:
        yield f"{len(torn)} documents measured in another split than they were placed in, e.g. {torn[0]}"
    rows = fetch_rows(connection, _BANDS)
    threshold, num_bands, band_size = tuple(rows[0].values()) if rows else _BANDS_OF_BEFORE
    for run in fetch_rows(connection, "select distinct config from stored_runs"):
        threshold = max(threshold, _threshold_of(run["config"]))
    signed = [row for row in documents if len(row["minhash"] or ()) == _NUM_VALUES]
    pairs = _near_pairs(signed, threshold, num_bands, band_size)
    if pairs:
        first, second = (signed[i] for i in pairs[0])
        yield (
            f"{len(pairs)} near-duplicate pairs in different splits, e.g. {first['document_id']} in "
            f"{first['split']} and {second['document_id']} in {second['split']}: leave out one of each "
            "(train --where)"
        )


def _threshold_of(config: str) -> float:
    found = json.loads(config).get("corpus", {}).get("near_duplicate_threshold", 0.0)
    return float(found)


def _near_pairs(
    documents: list[dict[str, Any]], threshold: float, num_bands: int, band_size: int
) -> list[tuple[int, int]]:
    """Indices of near-duplicates whose splits differ."""
    if not documents:
        return []
    signature_D: npt.NDArray[np.uint32] = np.array([row["minhash"] for row in documents], dtype=np.uint32)
    pairs: set[tuple[int, int]] = set()
    for band in range(num_bands):
        rows = np.ascontiguousarray(signature_D[:, band * band_size : (band + 1) * band_size])
        keys = rows.view(f"V{rows.dtype.itemsize * band_size}").ravel()
        _, group_D, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for group in np.flatnonzero(counts > 1):
            members = np.flatnonzero(group_D == group).tolist()
            pairs |= {(i, j) for i in members for j in members if i < j}
    return sorted(
        (i, j)
        for i, j in pairs
        if documents[i]["split"] != documents[j]["split"]
        and (signature_D[i] == signature_D[j]).mean() >= threshold
    )
