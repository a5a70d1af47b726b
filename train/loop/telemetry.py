"""Telemetry sinks of a training run: a JSONL file, TensorBoard, and Weights & Biases or Trackio on request.

A sink is anything with `write(step, split, values)`. Values carry the specification's names: `loss`, `L_reg`,
`L_rank`, `L_budget`, `L_illegal`, `L_pref`, `grad_norm`, `lr`, `steps_per_s`, the metrics of
`snapshot_metrics.py` and the diagnostics of `diagnostics.py`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, Self

from mctrace.errors import ConfigError
from mctrace.train.loop.optimisation_steps import Step


@dataclass(frozen=True)
class Histogram:
    """Counts of values between neighbouring edges, with the sum and the sum of squares of all values."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    """one fewer than edges"""
    total: float
    """sum of the values"""
    squares: float
    """sum of their squares"""


Value = float | Histogram

WANDB_PROJECT = "mctrace"
"""project of the runs; `wandb_panels` lays their values out"""

SOURCE_NAMES = {
    "L_pref": "mc/lens_loss",
    "adv_delta_mean": "mc/adv_delta_mean",
    "adv_delta_p95": "mc/adv_delta_p95",
    "preference_corr_mean": "mc/preference_corr_mean",
    "preference_corr_min": "mc/preference_corr_min",
    "preference_corr_max": "mc/preference_corr_max",
    "variants_total": "mc/variants_total",
    "variants_mean": "mc/variants_mean",
}
"""ours -> the sources' (docs/specification/metrics.md#telemetry); dashboards show training values under
both"""


_BEST = {
    "loss": "min",
    "utility_correlation": "max",
    "ranking_accuracy": "max",
    "preference_corr_mean": "min",
}
"""what a run's summary keeps of its validations, beside the last value"""


def shown_names(split: str, name: str) -> tuple[str, ...]:
    """Names under which dashboards show a value: `<split>/<name>`, and the sources' for training values."""
    ours = f"{split}/{name}"
    return (ours, SOURCE_NAMES[name]) if split == "train" and name in SOURCE_NAMES else (ours,)


class Sink(Protocol):
    """Receives the values of one step of one split (`train` or `validation`)."""

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None: ...


class JsonlSink:
    """Appends one JSON object per line, flushed at once; a number that is not finite becomes null.

    `after_step` is the step that a run resumes after: lines of later steps are dropped first.
    """

    def __init__(self, path: Path, *, after_step: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if after_step is not None and path.exists():
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines() if _is_upto(line, after_step)
            ]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        plain = {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **plain}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class TensorBoardSink:
    """Writes each value as `<split>/<name>` of a TensorBoard run in `folder`.

    `after_step` is the step that a run resumes after: TensorBoard drops the values of later steps.
    """

    def __init__(self, folder: Path, *, after_step: int | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # seconds to import

        purge = None if after_step is None else after_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            if isinstance(value, Histogram):
                self._add_histogram(f"{split}/{name}", value, step)
            else:
                for shown in shown_names(split, name):
                    self._writer.add_scalar(shown, value, step)
        self._writer.flush()

    def _add_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        self._writer.add_histogram_raw(
            name,
            min=histogram.edges[0],
            max=histogram.edges[-1],
            num=sum(histogram.counts),
            sum=histogram.total,
            sum_squares=histogram.squares,
            bucket_limits=list(histogram.edges[1:]),
            bucket_counts=list(histogram.counts),
            global_step=step,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class _RunSink:
    """Writes each value as `<split>/<name>` of a run of `package`, which has W&B's interface."""

    def __init__(self, package: Any, run: Any) -> None:
        self._package, self._run = package, run

    def write(self, step: int, split: str, values: Mapping[str, Value]) -> None:
        shown = {
            name: self._package.Histogram(np_histogram=(value.counts, value.edges))
            if isinstance(value, Histogram)
            else value
            for ours, value in values.items()
            for name in shown_names(split, ours)
        }
        self._run.log(shown, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.finish()


class WandbSink(_RunSink):
    """Writes each value as `<split>/<name>` of a Weights & Biases run; `offline` leaves it in `folder`.

    Raises ConfigError when the package is not installed.
    """

    def __init__(
        self, folder: Path, mode: Literal["offline", "online"], config: Mapping[str, Any], *, resume: bool
    ) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ConfigError(
                f'train.wandb is "{mode}", but wandb is not installed: pip install "mctrace[wandb]"'
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=WANDB_PROJECT,
            name=folder.resolve().name,
            id=_run_id(folder),
            dir=str(folder),
            mode=mode,
            config=dict(config),
            resume="allow" if resume else None,
        )
        for name, best in _BEST.items():
            run.define_metric(f"validation/{name}", summary=best)
        super().__init__(wandb, run)


class TrackioSink(_RunSink):
    """Writes each value as `<split>/<name>` of a Trackio run named like `folder`; resumed runs go on with it.

    Raises ConfigError when the package is not installed.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise ConfigError(
                f'train.trackio is on, but {error.name} is not installed: pip install "mctrace[trackio]"'
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        run = trackio.init(
            project="mctrace",
            name=f"{folder.resolve().name}-{_run_id(folder)}",
            config=dict(config),
            resume="allow",
            embed=False,
        )
        super().__init__(trackio, run)


def no_progress(step: Step) -> None:
    """Progress callback that shows nothing."""


def _run_id(folder: Path) -> str:
    """The id of W&B's and Trackio's run, kept in `folder`, created on first use."""
    import secrets

    file = folder / "wandb_run_id"
    if not file.exists():
        file.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _plain(value: Value) -> float | dict[str, list[float]] | None:
    if isinstance(value, Histogram):
        return {"edges": list(value.edges), "counts": [float(count) for count in value.counts]}
    return value if math.isfinite(value) else None


def _is_upto(line: str, step: int) -> bool:
    try:
        found = json.loads(line)
    except ValueError:  # a line truncated by a crash
        return False
    return isinstance(found, dict) and isinstance(found.get("step"), int) and found["step"] <= step
