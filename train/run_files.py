"""Names of the files in a run folder, shared by their writers and readers, and the claim of a new folder."""

import shutil
from pathlib import Path

from mctrace.errors import InputError
from mctrace.train.checkpoints.atomic_folder import remove_folder

CONFIG_FILE = "config.json"
"""resolved configuration that the run was started with"""
METRICS_FILE = "metrics.jsonl"
"""one JSON object a line: a step's numbers on one split"""
TENSORBOARD_FOLDER = "tensorboard"
LENS_DEBUG_FILE = "lens_debug.log"
"""scores and LOD maps of training batches, on request"""
EVALUATION_FILE = "evaluation.json"
"""scores of checkpoints and baselines on held-out labels"""
CLOSED_LOOP_FILE = "closed_loop.json"
"""summary of a closed loop by group and policy"""
CLOSED_LOOP_ROWS_FILE = "closed_loop.jsonl"
"""one line for each document and policy that is done, which a second run takes over"""


def claim_run_folder(out: Path, resolved_config: str, *, overwrite: bool) -> None:
    """Make the run folder `out` and keep the configuration (JSON) in it.

    Raises InputError when the folder holds an earlier run and `overwrite` is not given, or cannot be made.
    """
    if (out / METRICS_FILE).exists():
        if not overwrite:
            raise InputError(f"{out} holds an earlier run: choose another --out, or --overwrite it")
        _remove_run(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_FILE).write_text(resolved_config + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the run folder {out} cannot be made: {error.strerror}") from error


def _remove_run(out: Path) -> None:
    """Checkpoints one by one, each as a whole, and metrics last: as long as they are there, whatever else is
    left is known to be of an earlier run.
    """
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        elif path.name != METRICS_FILE:
            path.unlink()
    shutil.rmtree(out)
