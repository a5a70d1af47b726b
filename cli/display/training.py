"""Start and end of training runs in a terminal."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from mctrace.train.checkpoints.retention import BEST
from mctrace.train.config import TrainConfig
from mctrace.train.loop.training_loop import TrainingResult
from mctrace.train.loop.training_run import TrainingRun
from mctrace.train.run_files import METRICS_FILE, TENSORBOARD_FOLDER

_HEADLINE = (
    "loss",
    "ranking_accuracy",
    "utility_correlation",
    "preference_agreement",
    "preference_corr_mean",
)


def print_objective(run: TrainingRun, console: Console) -> None:
    """Print the objective, and how many snapshots and pairs it learns from."""
    through = f", dataset {run.info.derived_dataset}" if run.info.derived_dataset else ""
    words = [f"Objective {run.config.objective.name!r} on version {run.info.dataset_version}{through}"]
    if run.source.labels:
        data = run.source.labels
        counts = ", ".join(f"{len(data.snapshots(split))} {split}" for split in ("train", "validation"))
        dropped = f", {data.num_without_target} without a target" if data.num_without_target else ""
        words.append(
            f"target {data.target.name!r}: {counts} snapshots{dropped}; "
            f"1 score unit = {run.info.utility_scale:.4g} nats"
        )
    if run.source.pairs:
        pairs = run.source.pairs
        words += [f"{pairs.comparisons(split).num_pairs} {split} pairs" for split in ("train", "validation")]
    console.print("; ".join(words), highlight=False)


def print_ending(result: TrainingResult, config: TrainConfig, out: Path, console: Console) -> None:
    """Print why a LensNet's training ended, its best validation values and where they are kept."""
    total = config.optimiser.total_steps
    if result.ending == "stopped":
        console.print(
            f"Stopped after step {result.num_steps} of {total}; the same command with --resume goes on",
            highlight=False,
        )
    if result.ending == "early":
        console.print(f"No lower validation loss for {config.patience} evaluations", highlight=False)
    if result.best:
        console.print(
            f"Best at step {result.best_step} of {result.num_steps}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in _headline(result.best).items())
            + f" on validation\nCheckpoint {out / BEST}; metrics {out / METRICS_FILE}, "
            + f"{out / TENSORBOARD_FOLDER}",
            highlight=False,
        )


def training_answer(run: TrainingRun, result: TrainingResult, out: Path) -> dict[str, object]:
    """A LensNet's training as `--json` prints it; `checkpoint` is null where none was evaluated."""
    labels = run.source.labels
    return {
        "out": str(out),
        "checkpoint": str(out / BEST) if result.best else None,
        "objective": run.config.objective.name,
        "target": labels.target.name if labels else None,
        "version": run.info.dataset_version,
        "dataset": run.info.derived_dataset,
        "utility_scale": run.info.utility_scale,
        "num_snapshots": {s: len(labels.snapshots(s)) for s in ("train", "validation")} if labels else {},
        "ending": result.ending,
        "num_steps": result.num_steps,
        "best_step": result.best_step,
        "validation": dict(result.best),
    }


def gistnet_answer(result: TrainingResult, out: Path, kind: str) -> dict[str, object]:
    """A GistNet's training as `--json` prints it; `gists` is null where none was evaluated."""
    return {
        "out": str(out),
        "gists": str(out / BEST) if result.best else None,
        "kind": kind,
        "ending": result.ending,
        "num_steps": result.num_steps,
        "best_step": result.best_step,
        "validation": dict(result.best),
    }


def print_gistnet_ending(result: TrainingResult, out: Path, match: str, console: Console) -> None:
    """Print a GistNet's best validation values and how to evaluate it."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in result.best.items())
    console.print(
        f"Best at step {result.best_step} of {result.num_steps}: {values} on validation ({match}, nats per "
        f"token)\nGistNet {out / BEST}; judge it with 'mctrace gist evaluate {out / BEST}'",
        highlight=False,
    )


def _headline(values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in _HEADLINE if name in values}
