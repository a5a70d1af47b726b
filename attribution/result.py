"""What the parts of a text are worth: the answer of `attribute`, as numbers, a table and JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mctrace.datasets.store.cursor_means import cursor_means

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Token:
    """One token: its text, and its loss in nats with everything before it in place.

    `nll` is None where nothing stands before it, and where only the text's continuation was asked about.
    """

    text: str
    nll: float | None


@dataclass(frozen=True, eq=False)
class Unit:
    """One part of the text, tokens [first, end) of the result's, and what it is worth for what follows.

    `delta_nll_T` [T] is each following token's loss without the part less its loss with it, in nats, from
    token `first_following` on; None where the part was not measured, for the reason in `unmeasured`.
    """

    index: int
    text: str
    first: int
    end: int
    first_following: int
    delta_nll_T: FloatArray | None
    unmeasured: str = ""
    is_by_token: bool = True
    """False where `delta_nll_T` repeats means over stretches of tokens: a gradient estimate's"""

    @property
    def num_following(self) -> int:
        return 0 if self.delta_nll_T is None else len(self.delta_nll_T)

    @property
    def nats(self) -> float | None:
        """Loss that the part saves over all that follows, in nats: positive where it helps."""
        return None if self.delta_nll_T is None else float(self.delta_nll_T.sum())

    @property
    def nats_per_token(self) -> float | None:
        """The mean over the tokens that follow."""
        return None if self.delta_nll_T is None else float(self.delta_nll_T.mean())

    @property
    def stderr(self) -> float | None:
        """Standard error of `nats`, over the tokens that follow; None for a single one or an estimate."""
        if self.delta_nll_T is None or len(self.delta_nll_T) < 2 or not self.is_by_token:
            return None
        _, stderr = cursor_means(self.delta_nll_T[None], 0, [0], len(self.delta_nll_T))
        return float(stderr[0, 0]) * len(self.delta_nll_T)


@dataclass(frozen=True, eq=False)
class AttributionResult:
    """What every part of a text is worth for what follows it, or for a given continuation.

    `tokens` are those of the text and then of the target.
    """

    text: str
    target: str | None
    tokens: tuple[Token, ...]
    units: tuple[Unit, ...]
    unit: str
    against: str
    estimator: str
    model: str
    gists: str | None
    """the GistNet whose gists stood in for blocks; None where parts were left out"""

    @property
    def ranked(self) -> list[Unit]:
        """The measured parts, the largest effect first."""
        return sorted(
            (unit for unit in self.units if unit.nats is not None), key=lambda unit: -abs(unit.nats or 0)
        )

    def worth_for(self, first: int, end: int) -> FloatArray:
        """What each part is worth [units] for the tokens [first, end) alone, in nats.

        NaN where the part was not measured or does not lie before all of them. By gradients it is a share of
        the stretches that these tokens lie in.
        """
        worth = np.full(len(self.units), np.nan)
        for unit in self.units:
            begin = first - unit.first_following
            if (
                unit.delta_nll_T is not None
                and begin >= 0
                and end - unit.first_following <= unit.num_following
            ):
                worth[unit.index] = unit.delta_nll_T[begin : end - unit.first_following].sum()
        return worth

    def arrow(self) -> pa.Table:
        """A row per part, as in `to_json`."""
        return pa.Table.from_pylist([_row(unit) for unit in self.units])

    def to_json(self) -> dict[str, Any]:
        """Plain data: the question, and a row per part in order of place."""
        asked = ("model", "unit", "against", "estimator", "gists", "target")
        return {
            **{name: getattr(self, name) for name in asked},
            "num_tokens": len(self.tokens),
            "units": [_row(unit) for unit in self.units],
        }

    def __repr__(self) -> str:
        asked = "what follows" if self.target is None else "the target"
        size = f"{len(self.units)} {self.unit}s, {len(self.tokens)} tokens"
        return f"<Attribution of {size} for {asked}, {self.model}>"


def _row(unit: Unit) -> dict[str, Any]:
    names = ("index", "first", "end", "nats", "stderr", "nats_per_token", "num_following", "text")
    return {**{name: getattr(unit, name) for name in names}, "unmeasured": unit.unmeasured or None}
