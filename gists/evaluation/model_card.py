"""Model card of a GistNet, generated from the files in its folder.

`mctrace gist train` writes training.json, `mctrace gist evaluate --card` adds evaluation.json and writes
MODEL_CARD.md from both. The text of notes.md is appended.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mctrace.errors import ModelError
from mctrace.gists.evaluation.evaluation_summary import CopyRow, EvaluationSummary, LossRow
from mctrace.gists.network.network_folder import WEIGHTS
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
    record = read_training(folder)
    is_key_value = record is not None and record.get("kind") == "key_value"
    what = (
        f"Adapters of {answer['model']} at the places that stay of {answer['block_size']} tokens and whose "
        "keys and values stand for all of them"
        if is_key_value
        else f"Stands for {answer['block_size']} children with one embedding of {answer['model']}"
    )
    lines = [
        f"# GistNet {folder.name}",
        f"{what} (weights `{answer['model_hash'][:16]}`). Gist hash `{answer['gist_hash']}`, {size:.1f} MB.",
    ]
    if record is None:
        return lines
    if record.get("kind") == "key_value":
        return [*lines, "## Training", _key_value_training(record)]
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


def _key_value_training(record: Mapping[str, Any]) -> str:
    training, corpus, found = record["training"], record["corpus"], record["validation"]
    return (
        f"`mctrace gist train --kind key_value` on {', '.join(corpus['paths'])}: {record['num_documents']} "
        f"documents of the train split, {record['num_tokens']:,} tokens (validation_fraction "
        f"{corpus['validation_fraction']}, test_fraction {corpus['test_fraction']}, max_tokens "
        f"{corpus['max_tokens']}). Step {record['step']} of {training['optimiser']['total_steps']}, windows "
        f"of {training['window_tokens']} tokens, rank {training['rank']}, {record['seconds'] / 60:.0f} "
        f"minutes on {record['machine']}, {record['dtype']}; peak learning rate "
        f"{training['optimiser']['learning_rate']:g}. "
        f"On validation windows KL to the full context is {found['loss']:.4f} nats per token, "
        f"{found['less_deleted']:.4f} ± {found['less_deleted_error']:.4f} against deletion; the copies "
        f"{found['copy_less_deleted']:.4f} ± {found['copy_less_deleted_error']:.4f}."
    )


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
        "median",
        "trimmed mean",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    groups: dict[tuple[str, ...], list[LossRow]] = {}
    for row in summary.rows:
        setting = row.setting
        share = f"{setting.share:.0%} {setting.placement} of {setting.context_tokens:,}"
        groups.setdefault((row.corpus, str(setting.level), share, row.variant), []).append(row)
    for key, rows in groups.items():
        cells = [*key, *(_cell(row.delta_nll) for row in rows), *_against_deletion(rows[-1])]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        "## What it is worth",
        f"Nats per token above the full text, on documents of the {answer['split']} split ({counts}); mean "
        f"and 95% bootstrap interval over documents, paired in the last three columns: the difference to "
        f"deletion, its median, and its mean over the middle 80% of the documents. The most recent "
        f"{settings['protected_tail']} tokens always stand in full, and so does the first. "
        f"In {answer['dtype']}.",
        "\n".join(lines),
        *_copies(summary, settings),
        *(_spans(summary, settings["tolerance"]) if summary.spans else []),
        *(_diversity(summary) if summary.diversity else []),
    ]


def _copies(summary: EvaluationSummary, settings: Mapping[str, Any]) -> list[str]:
    lines = [
        "| corpus | level | collapsed | variant | full text | above it | less deleted | median | "
        "trimmed mean |",
        "|" + " --- |" * 9,
    ]
    for row in summary.copies:
        setting = row.setting
        share = f"{setting.share:.0%} {setting.placement} of {setting.context_tokens:,}"
        key = [row.corpus, str(setting.level), share, row.variant, f"{row.full_nll:.3f}"]
        lines.append("| " + " | ".join([*key, _cell(row.delta_nll), *_against_deletion(row)]) + " |")
    return [
        f"Copy test: {settings['num_copies']} collapsed blocks repeated after the text, read without their "
        f"first {settings['copy_skip']} tokens:",
        "\n".join(lines),
    ]


def _against_deletion(row: LossRow | CopyRow) -> tuple[str, str, str]:
    """Cells of what differs from deletion: the mean, the median, the trimmed mean."""
    if row.robust is None:
        return "", "", ""
    median, trimmed = (
        f"{centre.value:.3f} [{centre.low:.3f}, {centre.high:.3f}]"
        for centre in (row.robust.median, row.robust.trimmed_mean)
    )
    return _cell(row.versus_deleted), median, trimmed


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
