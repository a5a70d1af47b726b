"""Saved layout of Weights & Biases panels for runs of `mctrace train`: a workspace view of the project.

    python -m mctrace.train.loop.wandb_panels ENTITY      # save the view, print its address
    python -m mctrace.train.loop.wandb_panels             # the view as JSON, offline, without an account

Panels show values under the names of `telemetry.shown_names`, with a section for the sources' own (`mc/...`).
A view belongs to a project, not to a run: it is saved once, and shows offline runs after `wandb sync`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mctrace.errors import ConfigError
from mctrace.train.loop.telemetry import SOURCE_NAMES, WANDB_PROJECT

VIEW = "LensNet training"


@dataclass(frozen=True)
class Panel:
    """Curves over steps; `names` are those under which values are logged."""

    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A row of panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _both(title: str, *names: str) -> Panel:
    return Panel(title, tuple(f"{split}/{name}" for name in names for split in ("train", "validation")))


def _train(title: str, *names: str) -> Panel:
    return Panel(title, tuple(f"train/{name}" for name in names))


SECTIONS = (
    Section(
        "Losses",
        (
            _both("loss", "loss"),
            *(_both(name, name) for name in ("L_reg", "L_rank", "L_budget", "L_illegal", "L_pref")),
        ),
    ),
    Section(
        "Agreement with held-out labels",
        (
            _both("utility correlation, should be positive", "utility_correlation_mean"),
            Panel("ranking accuracy", ("validation/ranking_accuracy",)),
            Panel("mean squared error", ("validation/mse",)),
            _both("budget balance, 0 is balanced", "budget_balance"),
            _both("legality compliance", "legality_compliance"),
        ),
    ),
    Section(
        "Preferences",
        (
            _both("preference correlation, should be negative", "preference_corr_mean"),
            _train("preference correlation, range", "preference_corr_min", "preference_corr_max"),
            _train("advantage of variants, nats per token", "adv_delta_mean", "adv_delta_p95"),
            _train("variants", "variants_total", "variants_mean"),
        ),
    ),
    Section(
        "Scores and price",
        (
            _train("scores", "score_mean", "score_std", "score_min", "score_max"),
            _train("histogram of scores", "score_histogram"),
            _train("masses", "expansion_mass", "collapse_mass"),
            _train("price of an action", "price_mean", "price_min", "price_max"),
            _train("values of detail", "value_mean", "value_std"),
        ),
    ),
    Section(
        "Optimisation",
        (
            _train("gradient norm", "grad_norm", "grad_norm_max"),
            _train("learning rate", "lr"),
            _train("steps per second", "steps_per_s"),
            _train("share of time spent reading", "read_share"),
        ),
    ),
    Section("The sources' names", tuple(Panel(name, (name,)) for name in SOURCE_NAMES.values())),
)


def workspace(entity: str, project: str = WANDB_PROJECT, sections: Sequence[Section] = SECTIONS) -> Any:
    """The view as a `wandb_workspaces.workspaces.Workspace`, not saved.

    Raises ConfigError when the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'a layout of panels needs {error.name}, which is not installed: pip install "mctrace[wandb]"'
        ) from error
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=VIEW,
        sections=[
            workspaces.Section(
                name=section.title,
                is_open=True,
                panels=[
                    reports.LinePlot(title=panel.title, x="Step", y=list(panel.names))
                    for panel in section.panels
                ],
            )
            for section in sections
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entity", nargs="?", help="user or team whose project gets the view; none: print it")
    parser.add_argument("--project", default=WANDB_PROJECT, help=f"project of the runs [{WANDB_PROJECT}]")
    arguments = parser.parse_args()
    try:
        found = workspace(arguments.entity or "ENTITY", arguments.project)
    except ConfigError as error:
        raise SystemExit(f"mctrace: {error}") from None
    if arguments.entity:
        print(found.save().url)
    else:
        print(json.dumps(found._to_model().model_dump(by_alias=True, mode="json"), indent=1))


if __name__ == "__main__":
    main()
