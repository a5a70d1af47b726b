"""One training run of a key-value GistNet, from tokens of a corpus to GistNets and metrics in a run folder.

A stopped run goes on from its last step checkpoint with the windows it would have seen.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import check_whole_attention, linear_layers
from mctrace.base_model.model_source import ModelSource
from mctrace.context.tree import TreeShape
from mctrace.gists.config import KeyValueTrainConfig
from mctrace.gists.network.key_value_gistnet import KeyValueGistConfig, KeyValueGistNet
from mctrace.gists.training.gistnet_run import TRAINING, GistNetCorpus, training_machine
from mctrace.gists.training.key_value_loss import (
    ValidationWindow,
    key_value_loss,
    key_value_validation,
    with_deletion,
)
from mctrace.gists.training.key_value_windows import (
    KeyValueWindow,
    key_value_validation_windows,
    key_value_windows,
)
from mctrace.progress import Progress
from mctrace.train.checkpoints.atomic_folder import write_folder
from mctrace.train.checkpoints.retention import BEST, keep_best_and_last, step_folders
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.loop.optimisation_steps import make_optimiser, optimisation_steps
from mctrace.train.loop.resume_state import ResumeState
from mctrace.train.loop.stop_signals import stop_signals
from mctrace.train.loop.telemetry import JsonlSink, Sink, TensorBoardSink
from mctrace.train.loop.training_loop import LoopState, TrainingResult, run_training_loop
from mctrace.train.run_files import METRICS_FILE, TENSORBOARD_FOLDER


@dataclass(frozen=True)
class KeyValueRun:
    """A key-value GistNet about to be trained against the frozen base model."""

    config: KeyValueTrainConfig
    tree: TreeShape
    model: FrozenCausalLM
    corpus: GistNetCorpus
    validation: Sequence[KeyValueWindow]
    record: Mapping[str, Any]
    """description of the training that stays the same during it"""
    stopped: Path | None
    """checkpoint to go on from"""

    @classmethod
    def of(
        cls,
        config: KeyValueTrainConfig,
        tree: TreeShape,
        source: ModelSource,
        model: FrozenCausalLM,
        corpus: GistNetCorpus,
        *,
        dtype: str,
        stopped: Path | None = None,
    ) -> "KeyValueRun":
        """Check the model and draw the validation windows.

        Raises InputError when no document is long enough for a window, ModelError for an architecture that
        has no such gists.
        """
        check_whole_attention(model.network.config)
        linear_layers(model.network)
        training = corpus.tokens["train"]
        record = {
            "kind": "key_value",
            "model": source.name,
            "model_hash": source.model_hash,
            "corpus": corpus.settings,
            "tree": asdict(tree),
            "dtype": dtype,
            "training": asdict(config),
            "num_documents": len(training),
            "num_tokens": sum(len(tokens) for tokens in training),
            "machine": training_machine(model.device),
        }
        validation = key_value_validation_windows(corpus.tokens["validation"], tree, config)
        return cls(config, tree, model, corpus, validation, record, stopped)

    def train(
        self,
        out: Path,
        progress: Progress,
        notify: Callable[[str], None],
        *,
        seconds: float = math.inf,
        tensorboard: bool = True,
    ) -> TrainingResult:
        """Train on the train split, validate on the validation split, leave GistNet folders in `out`.

        SIGTERM and Ctrl-C save and end the run, `seconds` end it likewise; `notify` receives a sentence about
        it. Where `tensorboard` is not installed, go without.
        """
        ends = time.monotonic() + seconds
        gistnet, config = self._network().to(self.model.device), self.config
        optimiser = make_optimiser(gistnet, config.optimiser)
        state = ResumeState(gistnet, optimiser, None, LoopState())
        if self.stopped is not None:
            state.restore(self.stopped, ProcessGroup())
            notify(f"Going on after step {state.loop.step}")
        done = state.loop.step
        batches = key_value_windows(self.corpus.tokens["train"], self.tree, config, first_step=done + 1)
        validation = self._validation(progress)
        with (
            stop_signals(notify) as should_stop,
            _open_sinks(out, done or None, tensorboard=tensorboard) as sinks,
        ):
            progress.start("training", config.optimiser.total_steps, "steps")
            progress.advance(done)
            result = run_training_loop(
                optimisation_steps(
                    gistnet, batches, key_value_loss(gistnet, self.model, config), config.optimiser,
                    optimiser, done=done,
                ),
                config,
                evaluate=lambda: key_value_validation(gistnet, self.model, validation, config),
                save=keep_best_and_last(
                    out, self._writer(state), config.keep_last, step_folders(out) if done else ()
                ),
                sinks=sinks,
                progress=lambda step: progress.advance(1, f"loss {step.values['loss']:.4f}"),
                state=state.loop,
                should_stop=lambda: should_stop() or time.monotonic() >= ends,
            )  # fmt: skip
        progress.stop()
        return result

    def _network(self) -> KeyValueGistNet:
        if self.stopped is not None:
            return KeyValueGistNet.from_pretrained(self.stopped).requires_grad_(True)
        torch.manual_seed(self.config.seed)
        layers = linear_layers(self.model.network)
        return KeyValueGistNet(KeyValueGistConfig(self.tree.block_size, layers, self.config.rank))

    def _validation(self, progress: Progress) -> list[ValidationWindow]:
        progress.start("validation windows", None, "")
        found = with_deletion(self.model, self.validation, self.config)
        progress.stop()
        return found

    def _writer(self, state: ResumeState) -> Callable[[Path, int, Mapping[str, float]], None]:
        started = time.perf_counter()

        def write(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
            record = {
                **self.record,
                "step": step,
                "seconds": round(time.perf_counter() - started, 1),
                "validation": dict(metrics),
            }

            def fill(into: Path) -> None:
                assert isinstance(state.network, KeyValueGistNet)
                whole = folder.name != BEST
                state.network.save_pretrained(into, torch.float32 if whole else torch.float16)
                (into / TRAINING).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                if whole:
                    state.write(into, state.tensors(ProcessGroup()))

            write_folder(folder, fill)

        return write


@contextmanager
def _open_sinks(out: Path, after_step: int | None, *, tensorboard: bool) -> Iterator[list[Sink]]:
    with ExitStack() as stack:
        sinks: list[Sink] = [stack.enter_context(JsonlSink(out / METRICS_FILE, after_step=after_step))]
        if tensorboard:
            board = TensorBoardSink(out / TENSORBOARD_FOLDER, after_step=after_step)
            sinks.append(stack.enter_context(board))
        yield sinks
