"""Labels with gists that are some of their span's own tokens, read again where they stand.

Once it is known which tokens stand for each gist, such a context is one of tokens alone, and `evaluator.py`
measures it like any other. Which these are depends on the text alone: on the loss of each of its tokens in
its own pass, from the context's first token on.

Shapes: T tokens of the text, M anchors of a node.
"""

from dataclasses import replace

import numpy as np
import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.base_model.shared_attention import AttentionPlan
from mctrace.collect.measuring.evaluator import check_fits, if_it_fits, out_of_memory
from mctrace.collect.measuring.kept_reading import row_nll
from mctrace.collect.planning.edits import shown_gists
from mctrace.collect.planning.kept_passes import text_work
from mctrace.collect.planning.work_units import WorkUnit
from mctrace.gists.network.anchored_gists import ExtractedGists


def with_extracts(
    model: EvaluatedModel, gists: ExtractedGists, document: DocumentTree, unit: WorkUnit
) -> tuple[WorkUnit, Work]:
    """The unit on a trajectory that knows the tokens of its gists, and the work to find them.

    Raises ModelError when the text spans more positions than the model has, or does not fit into memory.
    """
    trajectory = unit.trajectory
    check_fits(model, trajectory)
    start, end = trajectory.head.start, trajectory.end
    text = slice(start, end - 1)
    nll_1T = if_it_fits(lambda: row_nll(model, document, trajectory, text, [AttentionPlan()]))
    if nll_1T is None:
        raise out_of_memory("a whole context", end - 1 - start)
    surprisal_T = torch.cat([nll_1T.new_zeros(1), nll_1T[0]]).cpu().numpy()
    edits = [edit for _, group in unit.edits_by_estimator for edit in group]
    extracts = {}
    for node in shown_gists(trajectory, edits):
        first, last = trajectory.head.tree.span(node)
        extracts[node] = start + np.array(gists.anchors(surprisal_T, first - start, last - start))
    return unit.on(replace(trajectory, extracts=extracts)), text_work(trajectory)
