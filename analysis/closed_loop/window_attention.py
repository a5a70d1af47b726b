"""Attention over the whole window as a score: what kept-position scorers see, at the price of reading it all.

A working context hides what is absent, so attention within it cannot find an absent block. Here the window
is shown whole to passes that only look: many times a context's cost at the first refocus.
"""

import numpy as np

from mctrace.analysis.closed_loop.policies import Observation, retrieved_scores
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.lod_map import LODMap


def window_attention_scores(observation: Observation) -> Candidates:
    """Attention that the last K tokens pay each span when the whole window is shown as tokens, standardised.

    What SnapKV keeps positions by (Li et al. 2024), with blocks instead of positions and one choice for all
    layers and heads; its logarithm, less the price, as for retrieval.
    """
    lod_map, candidates = observation.lod_map, observation.candidates()
    tree, before = lod_map.tree, lod_map.cursor - lod_map.tree.block_size
    past = LODMap.of_tokens(tree, lod_map.start, before)
    mass_N = observation.reader.beside.read(past, tree.block_size, attention_mass=True).attention_mass_N
    assert mass_N is not None
    mass_N = mass_N.double()
    attended_A = np.zeros(len(candidates))
    for i in range(len(candidates)):
        first, end = tree.span(candidates.actions.action(i).node)
        attended_A[i] = float(mass_N[first - lod_map.start : end - lod_map.start].sum())
    return retrieved_scores(observation, candidates, np.log(np.maximum(attended_A, 1e-12)))
