"""Checkpoint retention: the best checkpoint of a run and its last N stay on disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mctrace.train.checkpoints.atomic_folder import remove_folder

BEST = "best"
"""name of the checkpoint with the lowest validation loss"""


STEP = "step_"
"""prefix of all other names, followed by the step's number in seven digits"""


Save = Callable[[str, int, Mapping[str, float]], None]
"""(name, step, validation values): writes a checkpoint; the values are empty where none were computed"""


def keep_best_and_last(
    root: Path,
    write: Callable[[Path, int, Mapping[str, float]], None],
    keep_last: int,
    earlier: Sequence[Path] = (),
) -> Save:
    """A `save` that writes `root/<name>` by `write` and keeps `best` and the last `keep_last` others.

    Deletes only what it wrote itself, and `earlier`: the checkpoints that the run left before it was
    interrupted.
    """
    steps = list(earlier)

    def remove_old() -> None:
        while len(steps) > keep_last:
            remove_folder(steps.pop(0))

    def save(name: str, step: int, metrics: Mapping[str, float]) -> None:
        write(root / name, step, metrics)
        if name != BEST and root / name not in steps:
            steps.append(root / name)
        remove_old()

    remove_old()  # a run that was killed just before had one to remove
    return save


def step_folders(root: Path) -> list[Path]:
    """The step checkpoints of a run folder, earliest first."""
    return sorted(folder for folder in root.glob(f"{STEP}*") if folder.is_dir())
