"""The specification's five metrics of a whole batch, as its code computes them.

Source: docs/specification/metrics.md; chosen by `train.objective.metrics_scope = "batch"`. Entries of all
snapshots are pooled, an undefined correlation or balance is 0, and the metrics of a split are means over its
batches.

Shapes: B snapshots, N entries (padded).
"""

import numpy as np
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.evaluation.ranking_metrics import ordered_pairs
from mctrace.train.evaluation.snapshot_metrics import BALANCE_EPS
from mctrace.train.evaluation.statistics import Moments
from mctrace.train.objectives.budget import specification_masses


def batch_metrics(scores_BN: Tensor, batch: Batch) -> dict[str, float]:
    """`mse`, `ranking_accuracy`, `utility_correlation`, `budget_balance` and `legality_compliance` of scores.

    The last divides violations by the number of snapshots, as the source does, and falls below 0 where a
    snapshot has more than one.
    """
    measured_BN = batch.action_mask
    scores = scores_BN[measured_BN].detach().double().cpu().numpy()
    targets = batch.target_utilities[measured_BN].double().cpu().numpy()
    correct, total = ordered_pairs(scores, targets)
    expansion, collapse = (float(mass) for mass in specification_masses(scores_BN, batch))
    mass = expansion + collapse
    violations_BN = ((batch.levels == 0) & (scores_BN > 0)) | (
        (batch.levels == batch.coarsest) & (scores_BN < 0)
    )
    num_violations = int((violations_BN & batch.entry_mask).sum())
    return {
        "mse": float(np.square(scores - targets).mean()) if len(scores) else 0.0,
        "ranking_accuracy": correct / max(1, total),
        "utility_correlation": Moments.of(scores, targets).value() or 0.0,
        "budget_balance": abs(expansion - collapse) / mass if mass >= BALANCE_EPS else 0.0,
        "legality_compliance": 1.0 - num_violations / len(batch),
    }
