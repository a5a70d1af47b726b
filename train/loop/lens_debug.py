"""Debug lines of a training batch on request: scores of each context, and its LOD map in characters.

    PrefDebug step 40 variant ID group ID: 96 entries, adv_delta -0.0123, score mean 0.031 std ... corr -0.45
    LensDebug step 40 snapshot ID: 96 entries, score mean 0.031 std ... utility_correlation 0.22 ...
    map    2222 11111111 000000000
    score  +..- ...+..-- .........

A map has a character per gist and per block of tokens, its level (- where absent); under it what the mean
score asks for: + to expand, - to collapse, beyond the allocator's threshold.

Shapes: B contexts, N entries (padded).
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, PairBatch
from mctrace.train.evaluation.preference_metrics import move_scores
from mctrace.train.evaluation.snapshot_metrics import snapshot_metrics
from mctrace.train.evaluation.statistics import Moments
from mctrace.train.networks.focus import Focus, Scores, signed_scores
from mctrace.train.objectives.lensnet_gradients import ScoredExamples

THRESHOLD = 0.2
"""score from which the allocator acts (docs/specification/allocator.md)"""
_CORRELATIONS = ("utility_correlation", "score_delta_nll_expand", "score_delta_nll_collapse")


class LensDebugLog:
    """Appends debug lines to a file and shows them.

    Lines of a run that is resumed stay, also those of steps that are taken again.
    """

    def __init__(self, path: Path, show: Callable[[str], None], *, lines: bool, maps: bool) -> None:
        self._path, self._show, self._lines, self._maps = path, show, lines, maps

    def write(self, step: int, scored: ScoredExamples | None) -> None:
        if scored is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            for line in debug_lines(step, scored, lines=self._lines, maps=self._maps):
                file.write(f"{line}\n")
                self._show(line)


def debug_lines(step: int, scored: ScoredExamples, *, lines: bool, maps: bool) -> Iterator[str]:
    """Lines of every context in a batch: statistics (`lines`), LOD maps with scores (`maps`), or both."""
    labels, pairs = scored.examples.labels, scored.examples.pairs
    if pairs is not None and scored.pair_scores_BN is not None:
        scores_BN = scored.pair_scores_BN.float().cpu()
        about = _of_variants(scores_BN, pairs.to("cpu"))
        yield from _of_batch(f"PrefDebug step {step} variant", pairs.contexts, scores_BN, about, lines, maps)
    if labels is not None and scored.label_scores is not None:
        scores = scored.label_scores.float().cpu()
        batch = labels.to("cpu")
        about = _of_snapshots(scores, batch)
        shown_BN = signed_scores(scores, batch) if isinstance(scores, Focus) else scores
        yield from _of_batch(f"LensDebug step {step} snapshot", batch, shown_BN, about, lines, maps)


def _of_batch(
    name: str, batch: Batch, scores_BN: Tensor, about: Mapping[int, str], lines: bool, maps: bool
) -> Iterator[str]:
    lengths = batch.entry_mask.sum(dim=1).tolist()
    for row, (snapshot_id, length) in enumerate(zip(batch.snapshot_ids, lengths, strict=True)):
        scores_N = scores_BN[row, :length].double()
        found = about.get(row, "")
        statistics = (
            f"score mean {scores_N.mean():.4g} std {scores_N.std(correction=0):.4g} "
            f"min {scores_N.min():.4g} max {scores_N.max():.4g}"
        )
        yield f"{name} {snapshot_id}: {length} entries" + (f", {statistics}{found}" if lines else "")
        if maps:
            levels_N = batch.levels[row, :length].tolist()
            yield from _map_rows(levels_N, scores_N.tolist(), batch.block_size, batch.max_level)


def _map_rows(levels_N: list[int], scores_N: list[float], block_size: int, max_level: int) -> Iterator[str]:
    levels: list[str] = []
    wanted: list[str] = []
    at = 0
    for level, run in groupby(levels_N):
        length = len(list(run))
        size = 1 if level else block_size
        groups = [scores_N[first : min(first + size, at + length)] for first in range(at, at + length, size)]
        levels.append(("-" if level > max_level else str(level)) * len(groups))
        wanted.append("".join(_sign(float(np.mean(group))) for group in groups))
        at += length
    yield f"map    {' '.join(levels)}"
    yield f"score  {' '.join(wanted)}"


def _sign(score: float) -> str:
    return "+" if score > THRESHOLD else "-" if score < -THRESHOLD else "."


def _of_variants(scores_BN: Tensor, pairs: PairBatch) -> dict[int, str]:
    """Loss of each context against the baseline, and the correlation of its moves' scores and changes."""
    moves = pairs.every_move or pairs
    opinion_P, change_P, row_P = (
        move_scores(scores_BN, moves),
        moves.change.double().numpy(),
        moves.row.numpy(),
    )
    found: dict[int, str] = {}
    for row in range(len(pairs.contexts)):
        of_row = row_P == row
        if not of_row.any():
            continue
        corr = Moments.of(opinion_P[of_row], change_P[of_row]).value()
        number = int(of_row.argmax())
        found[row] = f" corr {_number(corr)}, adv_delta {float(moves.from_adv_delta[number]):.4g}"
        found[row] += f", group {moves.groups[number]}"
    return found


def _of_snapshots(scores: Scores, batch: Batch) -> dict[int, str]:
    rows = enumerate(snapshot_metrics(scores, batch))
    return {
        row: "".join(
            f", {name} {_number(metrics[name].value())}" for name in _CORRELATIONS if name in metrics
        )
        for row, metrics in rows
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
