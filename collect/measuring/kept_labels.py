"""Labels of contexts whose entries stay as they were read: the semantics of key-value caches.

An edit is made when its `first_token` is about to be read: it decides what the tokens from there on see of
the text (`kept_reading.py`), and changes nothing that was read. So an effect is

    delta_nll[t] = nll_t(seen after the edit) - nll_t(seen before)    for t in [first_token, last cursor + H)

in nats per token, 0 at `first_token` itself, whose loss was predicted before the edit; and an exact one runs
R·K + H tokens at most, whatever the context's length. Never to be mixed with the labels of `evaluator.py`,
which runs every entry behind an edit again (re-encoded). The definition is in docs/gists.md.

Shapes: C entries of the cache that are seen, B edits of one pass, L tokens that a row runs, H tokens whose
loss is read.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.collect.measuring.evaluator import Batching, EditEffects, if_it_fits
from mctrace.collect.measuring.kept_reading import KeptReading, row_nll, seeing
from mctrace.collect.planning.edit_places import EditPlace
from mctrace.collect.planning.edits import Edit
from mctrace.collect.planning.kept_passes import KeptPass, kept_passes
from mctrace.context.lod_map import IntArray
from mctrace.context.trajectory import Trajectory


@torch.inference_mode()
def measure_kept_edits(
    model: EvaluatedModel,
    document: DocumentTree,
    edits: Sequence[Edit],
    reading: KeptReading,
    batching: Batching,
) -> EditEffects:
    """The effect of every edit, exactly. Out of memory, passes are halved (`batching` remembers)."""
    trajectory = reading.trajectory
    seen = [_seen_after(reading, edit) for edit in edits]
    deltas = [torch.zeros(trajectory.end - edit.first_token) for edit in edits]
    places = [_place(edit, len(seen_C), trajectory) for edit, seen_C in zip(edits, seen, strict=True)]
    left, work = list(kept_passes(trajectory, places, batching.tokens)), Work()
    while left:
        group = left.pop(0)
        tokens = slice(group.first_token, trajectory.end - 1)
        plans = [seeing(reading.baseline.cache, seen[i]) for i in group.members]
        nll_BL = if_it_fits(partial(row_nll, model, document, trajectory, tokens, plans))
        if nll_BL is None:
            batching.halve(group)
            left = [part for one in (group, *left) for part in _halves(one, batching.tokens)]
            continue
        work += group.work
        before_L = reading.baseline.nll_H[group.first_token + 1 - trajectory.first_cursor :]
        for i, nll_L in zip(group.members, nll_BL, strict=True):
            deltas[i] = torch.cat([before_L.new_zeros(1), nll_L - before_L])
    return EditEffects(tuple(delta_H.to(reading.baseline.nll_H.device) for delta_H in deltas), work)


def _halves(group: KeptPass, batch_tokens: int) -> list[KeptPass]:
    """The same edits in passes of at most `batch_tokens` tokens."""
    per_pass = max(1, batch_tokens // group.row_length)
    shares = [group.members[at : at + per_pass] for at in range(0, len(group.members), per_pass)]
    each = group.num_seen // len(group.members)
    return [replace(group, members=share, num_seen=each * len(share)) for share in shares]


def _place(edit: Edit, num_seen: int, trajectory: Trajectory) -> EditPlace:
    shown = trajectory.head.num_positions + edit.first_token - trajectory.first_cursor
    return EditPlace(edit.first_entry, edit.end_entry, num_seen - shown, edit.first_token, 0)


def _seen_after(reading: KeptReading, edit: Edit) -> IntArray:
    """What the tokens from the edit's first one on see of those before it, by place in the cache [C]."""
    entries = reading.trajectory.context.entries
    read = entries.index_of_token(edit.first_token)
    parts = (
        entries.sliced(slice(0, edit.first_entry)),
        edit.replacement,
        entries.sliced(slice(edit.end_entry, read)),
    )
    return reading.seen(parts[0].followed_by(*parts[1:]))
