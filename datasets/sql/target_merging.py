"""Merging of the targets of an entry that can both expand and collapse into one, and the meaning of its sign.

A target's text names its rule on a line such as `-- merge: largest`; see `merged_targets` for the rules.
Needs numpy only: a live runtime reads the rule of a checkpoint's target.

Shapes: N entries.
"""

import re
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from mctrace.ranges import check_choice

Merge = Literal["sum", "largest", "mean", "separate"]

_MERGE_LINE = re.compile(r"^--[ \t]*merge:(.*)$", re.MULTILINE)


def merge_of(target_sql: str, name: str) -> Merge:
    """Merge rule of a target's text, `sum` by default. Raises ConfigError for an unknown rule."""
    found = [said.strip() for said in _MERGE_LINE.findall(target_sql)]
    for said in found:
        check_choice(f"'-- merge:' of the target {name!r}", said, get_args(Merge))
    return cast(Merge, found[0]) if found else "sum"


def is_signed(merge: Merge) -> bool:
    """Whether a score's sign decides: more detail above 0, less below.

    `mean` and `separate` keep utilities of either sign for either action. Such scores are the worth of
    detail; its cost is a price: searched for where edits are chosen (`context/pricing.py`), or learned.
    """
    return merge not in ("mean", "separate")


def learns_price(merge: Merge) -> bool:
    """Whether a network learns a value for each direction and a price of a position beside them."""
    return merge == "separate"


def merged_targets(
    expand_N: npt.NDArray[np.int64],
    collapse_N: npt.NDArray[np.int64],
    utilities: npt.NDArray[np.float64],
    merge: Merge,
    block_size: int,
    drops: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Merged target and regression weight of each entry [N], in the unit of `utilities`.

    "sum": max(0, u_expand) + min(0, u_collapse, u_drop); "largest": of these two the one of larger size;
    "mean" and "separate": the mean of those that were measured, whatever their signs; under "separate" losses
    take them apart. `expand_N` (expands and inserts), `collapse_N` and the first of `drops` index
    `utilities`, -1 for none; the second of `drops` is each entry's level. An entry whose expand, insert or
    own drop was measured weighs 1; a collapse, and a drop of tokens, is copied to its K entries with weight
    1/K; others weigh 0.
    """
    padded_utilities = np.append(utilities, 0.0)
    drop_N, level_N = drops or (np.full(len(expand_N), -1), np.zeros(len(expand_N), dtype=np.int64))
    expand, collapse, drop = (padded_utilities[index_N] for index_N in (expand_N, collapse_N, drop_N))
    if not is_signed(merge):
        num_measured_N = sum((index_N >= 0).astype(int) for index_N in (expand_N, collapse_N, drop_N))
        target_N = (expand + collapse + drop) / np.maximum(1, num_measured_N)
    else:
        gain_N = np.maximum(0, expand)
        refund_N = np.minimum(0, np.minimum(collapse, drop))
        target_N = gain_N + refund_N if merge == "sum" else np.where(gain_N >= -refund_N, gain_N, refund_N)
    is_own_N = (expand_N >= 0) | ((drop_N >= 0) & (level_N > 0))
    is_shared_N = (collapse_N >= 0) | (drop_N >= 0)
    weight_N = np.where(is_own_N, 1.0, np.where(is_shared_N, 1.0 / block_size, 0.0))
    return target_N, weight_N
