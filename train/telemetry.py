"""Where a training run's numbers go: a JSONL file and TensorBoard.

A sink is anything with `write(step, split, values)`. Values carry the specification's names: `loss`, `L_reg`,
`L_rank`, `L_budget`, `L_illegal`, `grad_norm`, `lr`, `steps_per_s` and the metrics of `metrics.py`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol, Self

from mctrace.train.loop import Step


class Sink(Protocol):
    """Takes the numbers of one step of one split (`train` or `validation`)."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None: ...


class JsonlSink:
    """Appends one JSON object a line, flushed at once; a number that is not finite becomes null."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class TensorBoardSink:
    """Writes each value as the scalar `<split>/<name>` of a TensorBoard run in `folder`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # seconds to import

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def no_progress(step: Step) -> None:
    """Show nothing."""
