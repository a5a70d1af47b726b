"""`mctrace evaluate --closed-loop`: policies and documents in, a table of what contexts were worth out."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mctrace.analysis.closed_loop.loop import Loop, as_row, place_loop, run_policy
from mctrace.analysis.closed_loop.policies import (
    ORACLE_ALLOCATOR,
    Hindsight,
    Policy,
    Scored,
    Window,
    attention_scores,
    lensnet_scores,
    random_scores,
    recency_scores,
    similarity_scores,
    word_scores,
)
from mctrace.analysis.closed_loop.results import PolicySummary, as_json, summarise
from mctrace.analysis.closed_loop.told import Told
from mctrace.analysis.report.run_folder import CLOSED_LOOP_FILE
from mctrace.base_model.causal_lm import load_base_model
from mctrace.base_model.source import ModelSource, resolve_model
from mctrace.cli.config import PipelineConfig
from mctrace.cli.output import print_table
from mctrace.cli.progress import make_progress
from mctrace.collect.corpus.documents import SPLITS, Document, SplitAssigner, read_documents
from mctrace.collect.corpus.sources import Skipped, read_corpus
from mctrace.collect.measuring.architecture_check import check_architecture
from mctrace.collect.measuring.evaluator import Batching
from mctrace.collect.planning.on_policy import embed_document, load_scorer
from mctrace.collect.planning.part_ids import EVALUATOR_VERSION
from mctrace.collect.planning.run_plan import known_placements, provenance_of
from mctrace.collect.running.worker import load_checked_gistnet
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import find_store
from mctrace.errors import ConfigError, InputError, ModelError
from mctrace.ranges import check_choice
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_name
from mctrace.train.evaluation.statistics import Interval

ROWS_FILE = "closed_loop.jsonl"
"""One line for each document and policy that is done; what a second run takes over."""


@dataclass(frozen=True)
class Contender:
    """A policy with its name and the hash of everything that its rows depend on."""

    name: str
    policy: Policy
    key: str


def evaluate_closed_loop(
    config: PipelineConfig,
    checkpoints: Sequence[Path],
    split: str,
    out: Path | None,
    as_one_object: bool,
    console: Console,
) -> None:
    """Runs every policy on every document, row by row into the results folder, and prints the table.

    Rows that are there already, under the same conditions, are not run again.
    """
    check_choice("--split", split, SPLITS)
    source = resolve_model(config.model.name, config.model.revision)
    check_architecture(source.config, "cpu", torch.float32)
    provenance = provenance_of(source, config.model, config.gists, config.tree)
    contenders = list(_contenders(config, checkpoints, source, provenance))
    listener = Console(stderr=True, soft_wrap=True) if as_one_object else console
    progress = make_progress(listener)
    documents = held_out_documents(config, source, split)
    if len(documents) < config.closed_loop.documents:
        listener.print(
            f"{len(documents)} of closed_loop.documents={config.closed_loop.documents} held-out documents "
            "are long enough; give more corpora for narrower intervals",
            highlight=False,
        )
    folder = out or (checkpoints[0].parent if checkpoints else Path("closed_loop"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the results folder {folder} cannot be made: {error.strerror}") from error
    rows: list[Mapping[str, Any]] = []
    progress.start("closed loop", len(documents) * len(contenders), "runs")
    try:
        for row in _rows(config, source, provenance, documents, contenders, folder / ROWS_FILE):
            rows.append(row)
            progress.advance(1, str(row["policy"]))
    finally:
        progress.stop()
    loop, block_size = config.closed_loop, config.tree.block_size
    summaries = summarise(
        rows, loop.w_max - block_size, loop.seed, block_size=block_size, horizon=loop.horizon
    )
    answer = {
        "split": split,
        "corpus": list(config.corpus.paths),
        "num_documents": len(documents),
        "model": {"name": source.name, "hash": source.model_hash, "dtype": config.model.dtype},
        "gists": {"source": config.gists.source, "hash": provenance.gist_hash},
        "checkpoints": [str(checkpoint) for checkpoint in checkpoints],
        "block_size": config.tree.block_size,
        "protected_tail": config.collect.protected_tail,
        "closed_loop": asdict(config.closed_loop),
        "allocator": asdict(config.allocator),
        "groups": as_json(summaries),
    }
    (folder / CLOSED_LOOP_FILE).write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    if as_one_object:
        print(json.dumps(answer))
        return
    for group, policies in summaries.items():
        _print(group, policies, config, console)


def _rows(
    config: PipelineConfig,
    source: ModelSource,
    provenance: Provenance,
    documents: Sequence[tuple[Document, Loop]],
    contenders: Sequence[Contender],
    file: Path,
) -> Iterator[Mapping[str, Any]]:
    """A row for every document and policy, from `file` where it is there, else run and appended to it."""
    done = _done(file)
    model = load_base_model(source, config.model.dtype, config.model.device, config.model.device_map)
    gistnet = load_checked_gistnet(config.gists.source, provenance, model)
    asked = config.collect.batch_tokens
    batching = Batching(model.batch_tokens if asked == "auto" else asked)
    for document, loop in documents:
        tree = None
        for contender in contenders:
            row = done.get((contender.key, document.document_id))
            if row is None:
                tree = tree or embed_document(model, gistnet, document, config.tree)
                steps = run_policy(
                    contender.policy, model, document.document_id, tree, loop, config.tree,
                    config.closed_loop, config.collect.protected_tail, batching,
                )  # fmt: skip
                row = as_row(contender.key, document.document_id, document.source, contender.name, steps)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
            yield {**row, "policy": contender.name}


def held_out_documents(
    config: PipelineConfig, source: ModelSource, split: str
) -> list[tuple[Document, Loop]]:
    """Documents of the split with the place of their loop, the same number from every corpus path.

    The first `closed_loop.skip` of them, spread alike, are left out.

    Raises InputError when no document is long enough, ModelError when the base model has too few positions.
    """
    skipped = Skipped()
    assigner = SplitAssigner(config.corpus, known_placements(find_store(config.store.uri)))
    tokenizer = source.load_tokenizer()
    found: list[tuple[Document, Loop]] = []
    num_skipped, settings = 0, config.closed_loop
    paths = config.corpus.paths
    for number, path in enumerate(paths):
        # Earlier paths that had too few leave their share to the later ones.
        unwanted = settings.skip * (number + 1) // len(paths) - num_skipped
        wanted = settings.documents * (number + 1) // len(paths) - len(found)
        texts = read_corpus([path], skipped)
        corpus = replace(config.corpus, limit=None)
        documents = read_documents(
            texts, tokenizer, source.tokenizer_hash, corpus, assigner, skipped, needs=(split,)
        )
        usable = _usable(documents, unwanted + wanted, config, split, skipped)
        num_skipped += sum(1 for _ in islice(usable, unwanted))
        found += usable
    if not found:
        raise InputError(
            f"no document of the {split} split is long enough for a closed loop ({skipped}; {num_skipped} "
            "left out by closed_loop.skip): give longer documents or a smaller closed_loop.w_max"
        )
    widest = max(loop.cursors[-1] + config.closed_loop.horizon - loop.start for _, loop in found)
    if widest > source.max_positions:
        raise ModelError(
            f"a closed loop would span {widest} positions, the base model {source.name!r} has "
            f"{source.max_positions}: use a smaller closed_loop.window"
        )
    return found


def _usable(
    documents: Iterator[Document], wanted: int, config: PipelineConfig, split: str, skipped: Skipped
) -> Iterator[tuple[Document, Loop]]:
    while wanted > 0 and (document := next(documents, None)):
        if document.placement.split != split:
            continue
        loop = place_loop(document.num_tokens, config.closed_loop, config.tree)
        if loop is None:
            skipped.add("too short for a closed loop", document.source)
            continue
        wanted -= 1
        yield document, loop


def _contenders(
    config: PipelineConfig, checkpoints: Sequence[Path], source: ModelSource, provenance: Provenance
) -> Iterator[Contender]:
    loop = config.closed_loop
    known: dict[str, Policy] = {
        "full": Window(everything=True),
        "lod0": Window(),
        "recency": Scored(recency_scores, config.allocator),
        "random": Scored(random_scores, config.allocator),
        "attention": Scored(attention_scores, config.allocator),
        "similarity": Scored(similarity_scores, config.allocator),
        "words": Scored(word_scores, config.allocator),
        "told": Scored(Told(source.load_tokenizer()), ORACLE_ALLOCATOR),
        "hindsight": Scored(Hindsight(loop.max_candidates), ORACLE_ALLOCATOR),
        "literal_hindsight": Scored(Hindsight(loop.max_candidates, literal=True), ORACLE_ALLOCATOR),
    }
    for policy in dict.fromkeys(loop.policies):
        yield Contender(policy, known[policy], _key(config, provenance, policy))
    taken: set[str] = set(loop.policies)
    for folder in checkpoints:
        name = checkpoint_name(folder)
        if name in taken:
            raise ConfigError(f"two policies are called {name!r}: move the run in {folder} to another folder")
        taken.add(name)
        scorer = load_scorer(folder, provenance, balances=loop.rebalance)
        key = _key(config, provenance, scorer.checkpoint_hash)
        yield Contender(name, Scored(lensnet_scores(scorer), config.allocator), key)


def _key(config: PipelineConfig, provenance: Provenance, policy: str) -> str:
    """The conditions of a row: what would change its numbers, and not which others it is compared with."""
    loop = {
        name: value
        for name, value in asdict(config.closed_loop).items()
        if name not in ("policies", "documents", "skip")
    }
    conditions = {
        "policy": policy,
        "closed_loop": loop,
        "allocator": asdict(config.allocator),
        "provenance": asdict(provenance),
        "protected_tail": config.collect.protected_tail,
        "evaluator_version": EVALUATOR_VERSION,
    }
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]


def _done(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Rows of an earlier run. A last line that was cut short is taken off the file, and so run again.

    Raises InputError for any other line that is no row.
    """
    if not path.exists():
        return {}
    whole, newline, cut = path.read_bytes().rpartition(b"\n")
    if cut:
        path.write_bytes(whole + newline)
    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        row = _parse(line)
        if row is None:
            raise InputError(
                f"{path}, line {number}, is no row of a closed loop: take the line out, and what it held "
                "runs again"
            )
        rows[row["key"], row["document_id"]] = row
    return rows


def _parse(line: bytes) -> Mapping[str, Any] | None:
    """A row as `as_row` makes it; None for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    wanted = {"key", "document_id", "source", "refocuses"}
    return row if isinstance(row, dict) and wanted <= row.keys() else None


def _print(
    group: str, policies: Mapping[str, PolicySummary], config: PipelineConfig, console: Console
) -> None:
    block, horizon = config.tree.block_size, config.closed_loop.horizon
    num_documents = max(summary.nll.num_documents for summary in policies.values())
    table = Table(
        title=f"{group}: {num_documents} documents, {config.closed_loop.refocuses} refocuses each, w_max "
        f"{config.closed_loop.w_max}; nats per token, 95% bootstrap intervals paired by document"
    )
    table.add_column("policy")
    for column in (
        f"NLL next {block}", "better than recency", "of hindsight's gain", f"NLL next {horizon}",
        "better than recency", "edits", "swaps", "residency", "budget", "ms",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for name, summary in policies.items():
        table.add_row(
            name,
            f"{summary.nll.mean:.4f}",
            _signed(summary.less_than_recency),
            _share(summary.share_of_hindsight),
            f"{summary.nll_horizon.mean:.4f}",
            _signed(summary.less_than_recency_horizon),
            f"{summary.edits:.2f}",
            f"{summary.swaps:.2f}",
            "" if summary.residency is None else f"{summary.residency:.0%}",
            f"{summary.budget_use:.0%}",
            f"{1000 * summary.seconds:.0f}",
        )
    print_table(table, console)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _share(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
