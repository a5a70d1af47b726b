"""Debug lines of a training batch: the numbers are the batch's, the maps its levels."""

import re
from dataclasses import replace

import torch

from mctrace.train.evaluation.preference_metrics import correlations_of_groups
from mctrace.train.loop.lens_debug import LensDebugLog, debug_lines
from mctrace.train.objectives.lensnet_gradients import Examples, ScoredExamples
from tests.train.conftest import random_batch
from tests.train.pairs import random_pairs


def scored(**given) -> ScoredExamples:
    batch = random_batch(3)
    pairs = random_pairs(batch, pairs_per_context=6)
    scores = torch.randn(batch.levels.shape, generator=torch.Generator().manual_seed(1))
    examples = Examples(
        labels=batch if "labels" in given else None, pairs=pairs if "pairs" in given else None
    )
    return ScoredExamples(examples, scores, scores)


def test_every_variant_has_a_line_with_its_correlation():
    found = scored(pairs=True)
    lines = list(debug_lines(40, found, lines=True, maps=False))
    pairs = found.examples.pairs
    assert len(lines) == len(pairs.contexts)
    assert all(line.startswith("PrefDebug step 40 variant ") for line in lines)
    shown = [float(re.search(r"corr (\S+),", line)[1]) for line in lines]
    # Each group's moves begin at one variant here, so that its correlation is the group's.
    expected = correlations_of_groups(found.pair_scores_BN, pairs)
    assert torch.allclose(torch.tensor(shown), torch.tensor(expected), atol=1e-3)
    assert f"adv_delta {float(pairs.from_adv_delta[0]):.4g}" in lines[0]


def test_every_snapshot_has_a_line_and_its_map_in_characters():
    found = scored(labels=True)
    batch = found.examples.labels
    lines = list(debug_lines(7, found, lines=True, maps=True))
    assert len(lines) == 3 * len(batch)
    about, levels, wanted = lines[:3]
    length = int(batch.entry_mask[0].sum())
    assert about.startswith(
        f"LensDebug step 7 snapshot {batch.snapshot_ids[0]}: {length} entries, score mean"
    )
    assert "utility_correlation" in about
    shown = levels.removeprefix("map    ")
    counts = {str(level): int((batch.levels[0, :length] == level).sum()) for level in range(3)}
    assert shown.count("2") == counts["2"]
    assert shown.count("1") == counts["1"]
    assert counts["0"] / batch.block_size <= shown.count("0") <= counts["0"]
    assert len(wanted) == len(levels)
    assert set(wanted.removeprefix("score  ")) <= set("+-. ")


def test_marks_say_what_scores_ask_for():
    found = scored(labels=True)
    high = replace(found, label_scores=torch.full_like(found.label_scores, 0.5))
    (_, _, wanted, *_) = debug_lines(7, high, lines=False, maps=True)
    assert set(wanted.removeprefix("score  ")) <= {"+", " "}


def test_lines_are_kept_in_a_file_and_shown(tmp_path):
    heard = []
    log = LensDebugLog(tmp_path / "lens_debug.log", heard.append, lines=True, maps=False)
    log.write(3, scored(labels=True, pairs=True))
    log.write(4, None)
    assert (tmp_path / "lens_debug.log").read_text().splitlines() == heard
    assert {line.split()[0] for line in heard} == {"LensDebug", "PrefDebug"}
