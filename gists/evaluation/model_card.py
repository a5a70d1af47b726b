"""Model card of a GistNet, generated from the files in its folder.

`mctrace gist train` writes training.json, `mctrace gist evaluate --card` adds evaluation.json and writes
MODEL_CARD.md from both. The text of notes.md is appended.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mctrace.errors import ModelError
from mctrace.gists.evaluation.evaluation_summary import EvaluationSummary, LossRow
from mctrace.gists.network.transformer_gistnet import WEIGHTS
from mctrace.gists.training.gistnet_run import TRAINING
from mctrace.train.evaluation.statistics import Interval

EVALUATION = "evaluation.json"
CARD = "MODEL_CARD.md"
NOTES = "notes.md"


def write_card(folder: Path, summary: EvaluationSummary, answer: Mapping[str, Any]) -> None:
    """Write MODEL_CARD.md into `folder`; `answer` is the content of evaluation.json."""
    text = "\n\n".join([*_training(folder, answer), *_table(summary, answer), *_notes(folder)])
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_training(folder: Path) -> Mapping[str, Any] | None:
    """Content of training.json, None when there is none; raises ModelError when it is damaged."""
    path = folder / TRAINING
    if not path.exists():
        return None
    try:
        record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return record


def _training(folder: Path, answer: Mapping[str, Any]) -> list[str]:
    size = (folder / WEIGHTS).stat().st_size / 1e6
    lines = [
        f"# GistNet {folder.name}",
        f"Stands for {answer['block_size']} children with one embedding of {answer['model']} (weights "
        f"`{answer['model_hash'][:16]}`). Gist hash `{answer['gist_hash']}`, {size:.1f} MB.",
    ]
    record = read_training(folder)
    if record is None:
        return lines
    training, objective = record["training"], record["training"]["objective"]
    corpus = record["corpus"]
    started = f", going on from `{record['init']}` (`{record['init_hash'][:16]}`)" if record["init"] else ""
    return [
        *lines,
        "## Training",
        f"`mctrace gist train` on {', '.join(corpus['paths'])}: {record['num_documents']} documents of the "
        f"train split, {record['num_tokens']:,} tokens (validation_fraction {corpus['validation_fraction']}, "
        f"test_fraction {corpus['test_fraction']}, max_tokens {corpus['max_tokens']}). Step {record['step']} "
        f"of {training['optimiser']['total_steps']}, {training['windows_per_step']} windows of "
        f"{objective['window_tokens']} tokens a step in {training['students_per_window']} patterns each"
        f"{started}; {record['seconds'] / 60:.0f} minutes on {record['machine']}, {record['dtype']}. "
        f"Objective {objective['match']}, peak learning rate {training['optimiser']['learning_rate']:g}.",
        *_curve(record.get("curve", [])),
    ]


def _curve(curve: Sequence[Mapping[str, float]]) -> list[str]:
    """Validation losses by step; older GistNets have none."""
    points = ", ".join(f"{point['loss']:.4f} at step {point['step']:,}" for point in curve)
    return [f"Validation loss up to the step that was kept, nats per token: {points}."] if points else []


def _table(summary: EvaluationSummary, answer: Mapping[str, Any]) -> list[str]:
    settings = answer["settings"]
    counts = ", ".join(f"{count} of {corpus}" for corpus, count in answer["num_documents"].items())
    horizons = settings["horizons"]
    head = [
        "corpus",
        "level",
        "collapsed",
        "variant",
        *(f"@{h}" for h in horizons),
        f"less deleted @{horizons[-1]}",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    groups: dict[tuple[str, ...], list[LossRow]] = {}
    for row in summary.rows:
        setting = row.setting
        share = f"{setting.share:.0%} {setting.placement} of {setting.context_tokens:,}"
        groups.setdefault((row.corpus, str(setting.level), share, row.variant), []).append(row)
    for key, rows in groups.items():
        cells = [*key, *(_cell(row.delta_nll) for row in rows), _cell(rows[-1].versus_deleted)]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        "## What it is worth",
        f"Nats per token above the full text, on documents of the {answer['split']} split ({counts}); mean "
        f"and 95% bootstrap interval over documents, paired in the last column. The most recent "
        f"{settings['protected_tail']} tokens always stand in full. In {answer['dtype']}.",
        "\n".join(lines),
        *_spans(summary, settings["tolerance"]),
        *_diversity(summary),
    ]


def _spans(summary: EvaluationSummary, tolerance: float) -> list[str]:
    lines = ["| corpus | variant | horizon | spans | share |", "| --- | --- | --- | --- | --- |"]
    for row in summary.spans:
        share = _cell(row.share_within_tolerance, 2)
        lines.append(f"| {row.corpus} | {row.variant} | {row.horizon} | {row.num_spans} | {share} |")
    return [f"Single level-1 spans that cost less than {tolerance} nats per token:", "\n".join(lines)]


def _diversity(summary: EvaluationSummary) -> list[str]:
    lines = ["| corpus | variant | level | neighbours | all pairs |", "| --- | --- | --- | --- | --- |"]
    for row in summary.diversity:
        cells = [row.corpus, row.variant, str(row.level), _cell(row.neighbours), _cell(row.pairs)]
        lines.append("| " + " | ".join(cells) + " |")
    return ["Diversity, the mean cosine distance of a document's gists:", "\n".join(lines)]


def _notes(folder: Path) -> list[str]:
    path = folder / NOTES
    return [path.read_text(encoding="utf-8").strip()] if path.exists() else []


def _cell(interval: Interval | None, digits: int = 3) -> str:
    if interval is None:
        return ""
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
