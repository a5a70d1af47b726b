"""Estimators of `attribute`: how the losses after each edit are found. One is a function in `ESTIMATORS`.

Every one runs through `collect/measuring`; nothing is evaluated here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.gradient_estimator import estimate_edits
from mctrace.collect.planning.edits import Edit
from mctrace.collect.planning.gradient_passes import STRETCHES_AT_ONCE
from mctrace.context.trajectory import Trajectory
from mctrace.progress import Progress


@dataclass(frozen=True)
class EditedLosses:
    """NLL [H] of the unedited context from the first cursor on, nats per token, and for each edit the
    difference that it makes from its `first_token` on."""

    nll_H: Tensor
    deltas: Sequence[Tensor]
    is_by_token: bool = True
    """False where differences are means over stretches of tokens, which have no standard error"""


Estimator = Callable[[FrozenCausalLM, DocumentTree, Trajectory, Sequence[Edit], Progress], EditedLosses]
"""starts the progress, which its caller stops"""


def exact(
    model: FrozenCausalLM,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    progress: Progress,
) -> EditedLosses:
    """Every edit in a pass of its own over what comes after it."""
    progress.start("attribute", len(edits), "parts")
    baseline = measure_baseline(model, document, trajectory)
    batching = Batching(model.batch_tokens)
    measured = measure_edits(model, document, trajectory, edits, baseline, batching, progress=progress)
    return EditedLosses(baseline.nll_H, measured.deltas)


def gradient(
    model: FrozenCausalLM,
    document: DocumentTree,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    progress: Progress,
) -> EditedLosses:
    """All edits to first order from a few passes, as means over at most eight stretches of what is read."""
    progress.start(f"attribute: {len(edits):,} parts at once", None, "")
    num_read = trajectory.end - trajectory.first_cursor
    # Two further cuts are the cursors' own.
    segment = -(-num_read // (STRETCHES_AT_ONCE - 2))
    batching = Batching(model.batch_tokens)
    estimated = estimate_edits(model, document, trajectory, edits, batching, segment=segment)
    return EditedLosses(estimated.baseline.nll_H, estimated.deltas, is_by_token=False)


ESTIMATORS: Mapping[str, Estimator] = {"exact": exact, "gradient": gradient}
