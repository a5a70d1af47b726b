"""A key-value GistNet trained in the time there is, then judged beside untrained gists and deletion.

The run takes as many steps of the preset `gpu` as fit three quarters of the time. What has the lowest
validation loss, and with it the lowest against deletion, is `gists/best` beside the results: a folder for
`mctrace gist evaluate`. The judgement is told in rounds of more and more held-out documents.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.corpus import KitCorpus
from benchmarks.gpu_kit.timing import peak_bytes, reset_peak, wall_seconds
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.loading import load_base_model
from mctrace.base_model.masked_pass import linear_layers
from mctrace.base_model.model_source import ModelSource
from mctrace.context.tree import TreeShape
from mctrace.gists.config import (
    GistEvaluationConfig,
    KeyValueOptimiserConfig,
    KeyValueTrainConfig,
    key_value_preset_changes,
)
from mctrace.gists.evaluation.evaluation_summary import CopyRow, EvaluationSummary, LossRow
from mctrace.gists.evaluation.gistnet_evaluation import choose_held_out, evaluate_gistnet
from mctrace.gists.evaluation.loss_changes import HeldOutDocument
from mctrace.gists.evaluation.variants import load_judged
from mctrace.gists.network.key_value_gistnet import KeyValueGistConfig, KeyValueGistNet
from mctrace.gists.training.gistnet_run import GistNetCorpus
from mctrace.gists.training.key_value_loss import key_value_loss, key_value_validation, with_deletion
from mctrace.gists.training.key_value_run import KeyValueRun
from mctrace.gists.training.key_value_windows import key_value_validation_windows, key_value_windows
from mctrace.progress import Silent
from mctrace.train.checkpoints.retention import BEST, step_folders

BESIDE = ("kept-1", "kept-4", "extract-4")
"""gists that need no training; deletion is always judged"""
FOLDER = "gists"
DTYPE = "bfloat16"
_FOR_TRAINING = 0.75
"""share of the time; the rest is for the judgement"""
_FILLED = 0.9
"""share of the training's time that its steps fill by what the first of them took"""


@dataclass(frozen=True)
class GistSizes:
    """How long a training may be, and how it is judged."""

    tree: TreeShape
    training: KeyValueTrainConfig
    levels: Mapping[int, GistEvaluationConfig]
    """level -> how its gists are judged"""
    rounds: tuple[tuple[int, int], ...]
    """(level, most documents of each corpus); a later round goes on with the documents of an earlier one"""


@dataclass(frozen=True)
class Pace:
    """Seconds of a step before and after `late_after` steps, and of a validation."""

    early_s: float
    late_s: float
    validation_s: float


def run(context: StepContext) -> None:
    sizes = _toy() if context.toy else _full()
    source = ModelSource("smollm2-135m", None, context.smollm2())
    model = load_base_model(source, DTYPE, str(context.device))
    corpus = KitCorpus.read(Path(__file__).parents[3])
    seconds = _FOR_TRAINING * context.seconds_left
    best = _train(context, sizes, source, model, corpus, seconds)
    _judge(context, sizes, source, model, corpus, best)


def _full() -> GistSizes:
    changes = key_value_preset_changes("gpu")
    optimiser = KeyValueOptimiserConfig(**changes["optimiser"])
    training = KeyValueTrainConfig(**{**changes, "optimiser": optimiser})
    first = GistEvaluationConfig(
        horizons=(64,), shares=(0.5,), placements=("random",), levels=(1,), spans_per_document=0
    )
    levels = {1: first, 2: replace(first, placements=("oldest",), levels=(2,))}
    return GistSizes(TreeShape(), training, levels, ((1, 12), (2, 12), (1, 64), (2, 32)))


def _toy() -> GistSizes:
    training = KeyValueTrainConfig(
        window_tokens=64, late_window_tokens=96, late_windows_per_step=2, windows_per_pass=2, late_after=2,
        curriculum_steps=2, eval_interval=2, num_validation_windows=2, log_interval=1,
        optimiser=KeyValueOptimiserConfig(warmup_steps=1, total_steps=4),
    )  # fmt: skip
    first = GistEvaluationConfig(
        context_tokens=96, horizons=(16,), shares=(0.5,), placements=("random",), levels=(1,),
        protected_tail=16, spans_per_document=0,
    )  # fmt: skip
    levels = {1: first, 2: replace(first, placements=("oldest",), levels=(2,))}
    return GistSizes(TreeShape(8), training, levels, ((1, 1), (2, 1), (1, 2)))


def _train(
    context: StepContext,
    sizes: GistSizes,
    source: ModelSource,
    model: FrozenCausalLM,
    corpus: KitCorpus,
    seconds: float,
) -> Path:
    """The folder of the GistNet with the lowest validation loss."""
    ends = time.monotonic() + seconds
    tokens = {split: [one.tokens_T for one in corpus.of(split)] for split in ("train", "validation")}
    documents = GistNetCorpus(tokens, corpus.settings)
    config = _fitted(context, sizes, model, documents, seconds)
    # One whole checkpoint, at the end: nobody goes on from it, and `best` is kept whenever it is.
    config = replace(config, save_interval=config.optimiser.total_steps)
    folder = context.out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    training = KeyValueRun.of(config, sizes.tree, source, model, documents, dtype=DTYPE)
    reset_peak(context.device)
    work = partial(
        training.train, folder, Silent(), print, seconds=ends - time.monotonic(), tensorboard=False
    )
    took, result = wall_seconds(context.device, work)
    for whole in step_folders(folder):
        shutil.rmtree(whole)  # with the optimiser's state it is too large to be sent back
    context.say(
        "training", seconds=took, ending=result.ending, num_steps=result.num_steps,
        best_step=result.best_step, **result.best, peak_bytes=peak_bytes(context.device),
    )  # fmt: skip
    return folder / BEST


def _fitted(
    context: StepContext, sizes: GistSizes, model: FrozenCausalLM, corpus: GistNetCorpus, seconds: float
) -> KeyValueTrainConfig:
    """The configuration with as many of its steps as fit the time, by what a few of them take here; so its
    learning rate reaches zero at the last one."""
    config, device, started = sizes.training, context.device, time.monotonic()
    layers = linear_layers(model.network)
    gistnet = KeyValueGistNet(KeyValueGistConfig(sizes.tree.block_size, layers, config.rank)).to(device)
    gradients = key_value_loss(gistnet, model, config)
    step_s = {}
    for phase, first_step in (("early_s", 1), ("late_s", config.late_after + 1)):
        batches = key_value_windows(corpus.tokens["train"], sizes.tree, config, first_step=first_step)
        gradients(next(batches))  # finds the kernels and the memory
        step_s[phase], _ = wall_seconds(device, partial(gradients, next(batches)))
    windows = with_deletion(
        model, key_value_validation_windows(corpus.tokens["validation"], sizes.tree, config), config
    )
    validating, _ = wall_seconds(device, partial(key_value_validation, gistnet, model, windows, config))
    pace = Pace(**step_s, validation_s=validating)
    left = seconds - (time.monotonic() - started)
    num_steps = steps_within(_FILLED * left, pace, config)
    context.say(
        "pace", **asdict(pace), seconds=left, num_steps=num_steps, preset_steps=config.optimiser.total_steps,
        early_tokens=config.windows_per_step * config.window_tokens,
        late_tokens=config.late_windows_per_step * config.late_window_tokens,
    )  # fmt: skip
    warmup_steps = min(config.optimiser.warmup_steps, num_steps)
    optimiser = replace(config.optimiser, total_steps=num_steps, warmup_steps=warmup_steps)
    return replace(config, optimiser=optimiser)


def steps_within(seconds: float, pace: Pace, config: KeyValueTrainConfig) -> int:
    """How many steps of `config`, with their validations, fit the time; at least one."""
    used = pace.validation_s  # after the last step
    for step in range(1, config.optimiser.total_steps + 1):
        used += pace.early_s if step <= config.late_after else pace.late_s
        if used > seconds:
            return max(1, step - 1)
        used += pace.validation_s if step % config.eval_interval == 0 else 0.0
    return config.optimiser.total_steps


def _judge(
    context: StepContext,
    sizes: GistSizes,
    source: ModelSource,
    model: FrozenCausalLM,
    corpus: KitCorpus,
    best: Path,
) -> None:
    """All rounds that there is time for, each told at once."""
    documents = [HeldOutDocument(one.document_id, one.corpus, one.tokens_T) for one in corpus.of("test")]
    anchors = sizes.levels[1].anchors
    judged, *beside = (load_judged(name, model, sizes.tree, anchors) for name in (str(best), *BESIDE))
    document_s, num_done = dict.fromkeys(sizes.levels, 0.0), dict.fromkeys(sizes.levels, 0)
    for level, most in sizes.rounds:
        config = replace(sizes.levels[level], documents_per_corpus=most)
        num_documents = len(choose_held_out(documents, "test", config))
        expected_s = document_s[level] * (num_documents - num_done[level])
        if expected_s > context.seconds_left:
            context.say("no time", level=level, num_documents=num_documents, seconds=expected_s)
            continue
        work = partial(
            evaluate_gistnet, judged, "trained", source, model, documents, "test", dtype=DTYPE,
            tree=sizes.tree, config=config, progress=Silent(), beside=beside,
            rows=best.parent / "rows.jsonl",
        )  # fmt: skip
        took, evaluation = wall_seconds(context.device, work)
        document_s[level] = took / max(1, num_documents - num_done[level])
        num_done[level] = num_documents
        for case, values in _judgements(evaluation.summary):
            context.say(case, level=level, **values)
        context.say("judged", level=level, seconds=took, num_documents=num_documents)


def _judgements(summary: EvaluationSummary) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each corpus and gist, of the next tokens and of the copy test; nats per token."""
    for case, rows in (("next tokens", summary.rows), ("copy test", summary.copies)):
        for row in rows:
            yield case, _judgement(row)


def _judgement(row: LossRow | CopyRow) -> dict[str, Any]:
    less, robust = row.versus_deleted, row.robust
    return {
        "corpus": row.corpus, "gist": row.variant, "full_nll": row.full_nll,
        "delta_nll": row.delta_nll.mean, "num_documents": row.delta_nll.num_documents,
        "against_deletion": asdict(less) if less else None,
        "median": robust.median.value if robust else None,
        "trimmed_mean": robust.trimmed_mean.value if robust else None,
    }  # fmt: skip
