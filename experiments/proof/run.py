"""`make proof`: does a LensNet beat truncation and the best retrieval, as `../PROTOCOL.md` asks?

Texts, labels, networks, then the loop on development documents, which choose the opponent, its number of
blocks and the median network of three seeds. `--final` opens the test documents, once all of that is chosen,
and `--seal` writes the hashes that these are held to. Every step goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.closed_loop import REGULARISED, corpora, mctrace
from experiments.proof.choices import Choices, choose
from experiments.proof.document_sets import (
    SEAL,
    Counts,
    DocumentSet,
    check_seal,
    check_sides,
    first_of_groups,
    make_set,
    sealed,
)
from experiments.proof.loop import ProofLoop
from experiments.proof.policy_table import CEILINGS, RETRIEVAL, TRUNCATION, PolicyMaker
from experiments.proof.tables import curves, primary
from experiments.proof.texts import fetch_texts
from experiments.result_files import RESULTS, machine, write_results
from mctrace.cli.configuration import PipelineConfig, load_config
from mctrace.collect.measuring.bring_up import bring_up, resolve_evaluable_model
from mctrace.collect.planning.run_plan import provenance_of
from mctrace.errors import InputError

CONFIG = Path(__file__).with_name("proof.toml")
RESULT = RESULTS / "proof.json"
TEXTS = Path("runs/proof-texts")
PRIMARY_BUDGET = 512
RECALL, PLAIN = ("recall:pydoc-topics", "recall:stdlib"), ("pydoc-topics", "stdlib")
TEST = Counts(recall=48, ruler=10, ordinary=48, long_ruler=4, seen=48)
DEVELOPMENT = Counts(recall=24, ruler=5, ordinary=24)


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment's steps."""

    dense: tuple[int, int]
    """documents whose actions are all measured by gradient: recall documents, plain ones"""
    exact: tuple[int, int]
    """documents of which a sample of actions is measured exactly, at all cursors"""
    actions: int
    """of that sample, per trajectory"""
    steps: int
    """optimiser steps per network"""
    seeds: int
    """LensNets, beside one linear network"""
    development: Counts
    test: Counts
    budgets: tuple[int, ...]
    """of curves, the primary one among them"""
    further: int = 1_000
    """first documents of each group that also show what is outside the primary family"""
    calibrated: int = 100
    """actions by which the gradient's labels are calibrated"""
    retrieval: tuple[str, ...] = RETRIEVAL
    others: tuple[str, ...] = ("random", *CEILINGS)


SCALES = {
    # Minutes, to see that everything runs; for a night or more of one core; for a GPU.
    "quick": Scale(
        (3, 0), (3, 0), 4, 60, 1, Counts(2, 1, 2), Counts(2, 1, 2), (128, PRIMARY_BUDGET),
        1, 16, ("bm25-2",), ("told",),
    ),
    "small": Scale((120, 60), (30, 12), 12, 600, 3, Counts(8, 1, 8), TEST, (128, 256, 512, 1_024), further=6),
    "full": Scale((2_000, 600), (180, 60), 16, 4_000, 3, DEVELOPMENT, TEST, (128, 256, 512, 1_024)),
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One scale of the proof in one folder, with one base model."""

    name: str
    folder: Path
    model: tuple[str, ...] = ()
    """settings of another base model: model.name=…, gists.source=…"""
    match_words: bool = False
    """whether networks see word matches; these networks and what is chosen of them are kept apart"""

    @property
    def scale(self) -> Scale:
        return SCALES[self.name]

    @property
    def config(self) -> PipelineConfig:
        return load_config(CONFIG, list(self.model), {"store.uri": str(self.folder / "store")}, {})

    @property
    def networks(self) -> Path:
        """Folder of the networks and of the choices."""
        return self.folder / "match-words" if self.match_words else self.folder

    def collect(self) -> None:
        """Dense labels by gradient on many documents, exact ones on some of them."""
        shared = ("--no-ray", *self._settings)
        dense = ("--preset", "dense", "--set", f"collect.calibration_actions={self.scale.calibrated}")
        sampled = ("--set", f"collect.max_actions={self.scale.actions}")
        for counts, how in ((self.scale.dense, dense), (self.scale.exact, sampled)):
            for paths, documents in zip((RECALL, PLAIN), counts, strict=True):
                if documents:
                    mctrace("collect", *how, *shared, *corpora(paths), "--limit", str(documents))

    def train(self) -> list[Path]:
        """The best checkpoints of every seed and of the linear network; an interrupted run resumes."""
        networks = [(f"lensnet-{seed}", "dual_cross_attention", seed) for seed in range(self.scale.seeds)]
        return [self._train(*network) for network in (*networks, ("linear-0", "linear", 0))]

    def _train(self, name: str, network: str, seed: int) -> Path:
        run = self.networks / name
        words = ("--set", "train.network.match_words=true") if self.match_words else ()
        if not (run / f"step_{self.scale.steps:07d}").is_dir():
            begun = "--resume" if any(run.glob("step_*")) else "--overwrite"
            mctrace(
                "train", *self._settings, "--preset", "small", "--preset", "dense", "--network", network,
                "--out", str(run), begun, "--set", f"train.optimiser.total_steps={self.scale.steps}",
                "--set", f"train.seed={seed}", *REGULARISED, *words,
            )  # fmt: skip
        return run / "best"

    @property
    def _settings(self) -> list[str]:
        models = [part for setting in self.model for part in ("--set", setting)]
        return ["--config", str(CONFIG), "--store", str(self.folder / "store"), *models]

    def documents(self, split: str) -> DocumentSet:
        """The development or test set, checked against what was trained on and against the seal."""
        texts = fetch_texts(TEXTS)
        source = resolve_evaluable_model(self.config.model)
        counts = self.scale.test if split == "test" else self.scale.development
        found = make_set(split, counts, texts, source, self.config.tree.block_size)
        check_sides(found.placed, self.config.store.uri)
        if split == "test" and counts == TEST:
            check_seal(found.documents, source)
        return found

    def loop(self, checkpoints: Sequence[Path]) -> ProofLoop:
        """The loop with the base model loaded."""
        config = self.config
        source = resolve_evaluable_model(config.model)
        provenance = provenance_of(source, config.model, config.gists, config.tree)
        policies = PolicyMaker(
            provenance, config.allocator, config.collect.protected_tail, source.load_tokenizer(), checkpoints
        )
        models = bring_up(source, config.model, config.gists, provenance)
        return ProofLoop(models, policies, config.tree, config.closed_loop, self.folder / "loop.jsonl")


def seal() -> None:
    """Write the hashes of the test documents, which are made and not measured."""
    experiment = Experiment("full", Path("runs/proof"))
    source = resolve_evaluable_model(experiment.config.model)
    texts = fetch_texts(TEXTS)
    found = make_set("test", TEST, texts, source, experiment.config.tree.block_size)
    content = {"tokenizer_hash": source.tokenizer_hash, "groups": sealed(found.documents)}
    SEAL.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run(experiment: Experiment, *, final: bool) -> Iterator[dict[str, Any]]:
    """Run what an earlier run has not finished. Yields the results with the primary comparisons, then those
    with everything else.

    Raises InputError for a final run before development documents have chosen what is to be tested.
    """
    started, scale = time.perf_counter(), experiment.scale
    chosen_file = experiment.networks / "choices.json"
    options = f"{' --match-words' if experiment.match_words else ''}{' --final' if final else ''}"
    if final and not chosen_file.exists():
        raise InputError(f"{chosen_file} is not there: run without --final first, which chooses")
    fetch_texts(TEXTS)
    experiment.collect()
    checkpoints = experiment.train()
    networks = [checkpoint.parent.name for checkpoint in checkpoints]
    split = "test" if final else "development"
    documents = experiment.documents(split).documents
    loop = experiment.loop(checkpoints)
    if final:
        choices = Choices.read(chosen_file)
    else:
        names = [TRUNCATION, *networks, *scale.retrieval, *scale.others]
        rows = loop.run(documents, names, [PRIMARY_BUDGET])
        choices = choose(rows, scale.retrieval, [name for name in networks if name.startswith("lensnet")])
        choices.write(chosen_file)
    compared = [
        row
        for family, opponent in choices.retrieval.items()
        for row in loop.run(
            [document for document in documents if document.family == family and document.is_primary],
            [TRUNCATION, choices.lensnet, opponent],
            [PRIMARY_BUDGET],
        )
    ]
    result = {
        "command": f"python -m experiments.proof.run --scale {experiment.name}{options}",
        "set": split,
        "primary": primary(compared, choices, PRIMARY_BUDGET),
        "curves": [],
        "choices": asdict(choices),
        "model": loop.policies.provenance.model_hash,
        "scale": {"name": experiment.name, **asdict(scale)},
        "machine": machine(),
    }  # fmt: skip
    yield result | {"seconds": time.perf_counter() - started}
    few = first_of_groups(documents, scale.further)
    everywhere = [TRUNCATION, choices.lensnet, *sorted(set(choices.retrieval.values()))]
    rows = loop.run(few, [*networks, *everywhere, *scale.others], [PRIMARY_BUDGET])
    rows += loop.run(few, [*everywhere, "linear-0"], scale.budgets)
    result["curves"] = curves(rows, PRIMARY_BUDGET)
    yield result | {"seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--folder", type=Path, help="default: runs/proof-SCALE")
    parser.add_argument("--final", action="store_true", help="open the test documents")
    parser.add_argument("--seal", action="store_true", help="write the hashes of the test documents, no more")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="another base model: --set model.name=FOLDER --set gists.source=mean, in a --folder of its own",
    )  # fmt: skip
    parser.add_argument(
        "--match-words", action="store_true",
        help="networks that see word matches, kept apart from the others; give another --out",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULT, help="results file")
    arguments = parser.parse_args()
    if arguments.seal:
        seal()
        return
    folder = arguments.folder or Path(f"runs/proof-{arguments.scale}")
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(arguments.scale, folder, tuple(arguments.set), arguments.match_words)
    for result in run(experiment, final=arguments.final):
        write_results(arguments.out, result)
    print(json.dumps(result["primary"], indent=1))


if __name__ == "__main__":
    main()
