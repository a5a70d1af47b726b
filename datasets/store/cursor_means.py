"""Means of an effect per planned cursor, with standard errors: what labels at the collected horizon need.

A label at the collected horizon is two numbers, computed from about a hundred tokens. A store that keeps both
answers most questions without reading tokens. For effects without them (parts of earlier releases, or of
other writers) they are computed from the tokens on every query, by `views/effects_to_labels.sql`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def cursor_means(
    delta_nll_AT: FloatArray, first_token: int, cursors: Sequence[int], horizon: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means and standard errors [A, cursors] of A effects over the `horizon` tokens from each cursor on.

    `delta_nll_AT` holds T tokens from `first_token` on, nats each; so are both answers, in double precision.
    NaN where a cursor's horizon is not all among the T; the standard error, sd / sqrt(horizon), is NaN at a
    horizon of one as well.
    """
    num_tokens = delta_nll_AT.shape[1]
    mean = np.full((len(delta_nll_AT), len(cursors)), np.nan)
    stderr = mean.copy()
    for place, cursor in enumerate(cursors):
        first = cursor - first_token
        if first < 0 or first + horizon > num_tokens:
            continue
        values = delta_nll_AT[:, first : first + horizon].astype(np.float64)
        mean[:, place] = values.mean(axis=1)
        if horizon > 1:
            stderr[:, place] = values.std(axis=1, ddof=1) / np.sqrt(horizon)
    return mean, stderr


def mean_columns(
    delta_nll_T: FloatArray, first_token: int, cursors: Sequence[int], horizon: int
) -> dict[str, list[float | None]]:
    """The columns of one effect's row: `cursor_means` with None where they have NaN."""
    means = cursor_means(delta_nll_T[None], first_token, cursors, horizon)
    return {
        name: [None if np.isnan(value) else float(value) for value in found[0]]
        for name, found in zip(("cursor_delta_nll", "cursor_stderr"), means, strict=True)
    }
