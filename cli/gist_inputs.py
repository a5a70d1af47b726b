"""Base model and documents that both commands of `mctrace gist` work on."""

from dataclasses import dataclass

import torch
from rich.console import Console

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.model_source import ModelSource, resolve_model
from mctrace.cli.configuration import PipelineConfig
from mctrace.cli.display.collection import print_left_out
from mctrace.cli.display.progress import make_progress
from mctrace.collect.corpus.configured_corpus import read_configured_corpus
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document
from mctrace.collect.measuring.bring_up import load_configured_model
from mctrace.datasets.store.store import find_store


@dataclass(frozen=True)
class GistInputs:
    """The loaded base model and the configuration of its documents."""

    config: PipelineConfig
    source: ModelSource
    model: FrozenCausalLM

    @property
    def dtype(self) -> str:
        """Number format of the loaded model."""
        return str(self.model.network.dtype).removeprefix("torch.")

    def read_documents(self, console: Console) -> list[Document]:
        """Read the corpus, split as the store splits it; print what was left out."""
        skipped = Skipped(self.config.corpus.strict)
        store = find_store(self.config.store.uri)
        progress = make_progress(console)
        documents = read_configured_corpus(self.source, self.config.corpus, store, skipped, progress)
        print_left_out(skipped, console)
        return documents


def load_gist_inputs(config: PipelineConfig, threads: int | None) -> GistInputs:
    """Load the base model, with `threads` CPU threads for torch; None: torch's own choice."""
    if threads:
        torch.set_num_threads(threads)
    source = resolve_model(config.model.name, config.model.revision)
    return GistInputs(config, source, load_configured_model(source, config.model))
