"""`make bench-driver`: what a collection run's driver gets through, and the memory that it takes.

A stub pool measures nothing and costs nothing: each item it is given is at once a finished part of the store.
Documents are synthetic token ids, signed and planned by Ray tasks as in a run; the driver places them,
commits placements, gives out items and commits parts to a real store. Tokenising is timed with one and with
two tasks at once, in alternating rounds of the same texts.

The last line printed is one JSON object, which is also written to benchmarks/results/.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import ray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from benchmarks.machine import processor_name
from mctrace.base_model.flop_counts import ModelSize
from mctrace.collect.config import CollectConfig, CorpusConfig, GistConfig, ModelConfig
from mctrace.collect.corpus.corpus_reader import STDLIB, Skipped, read_corpus
from mctrace.collect.corpus.documents import (
    Document,
    DocumentMaker,
    MadeDocuments,
    document_id,
    in_seeded_order,
)
from mctrace.collect.corpus.lazy_texts import SourceText, TextInMemory, whole_text
from mctrace.collect.corpus.split_assigner import SplitAssigner, placed_alone
from mctrace.collect.measuring.worker_probe import Probe
from mctrace.collect.planning.model_limits import ModelLimits
from mctrace.collect.planning.part_ids import vocabulary_part_id
from mctrace.collect.planning.plan_stream import CorpusStream, DocumentPlanner
from mctrace.collect.running.document_tasks import DocumentTasks
from mctrace.collect.running.driver import run_collection
from mctrace.collect.workers.worker import Finished, WorkItem
from mctrace.collect.workers.worker_agreement import NamedProbe
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import Store, create_store
from mctrace.progress import Silent

RESULTS = Path(__file__).parent / "results"
PROVENANCE = Provenance("model", "tokenizer", "gists", "float32", 32, 2)
CORPUS = CorpusConfig(min_tokens=1)
COLLECT = CollectConfig(
    trajectories_per_document=4, horizon=32, cursors_per_trajectory=2, window=512, max_actions=16
)
NUM_TOKENS = 1024
VOCABULARY = 32_000
_SETTLED = 0.3
"""Share of the items after which memory is compared: before, libraries and buffers still grow."""


@dataclass(frozen=True)
class Number:
    """A synthetic text: its seed."""

    source: str
    number: int

    def pieces(self) -> Iterator[str]:
        yield self.source


class SyntheticMaker(DocumentMaker):
    """Token ids by chance instead of text; everything after is as in a run."""

    def __call__(self, texts: Sequence[SourceText]) -> MadeDocuments:
        return MadeDocuments(tuple(map(self._synthetic, texts)), Skipped())

    def _synthetic(self, text: Any) -> Document:
        tokens = np.random.default_rng(text.number).integers(0, VOCABULARY, NUM_TOKENS).astype(np.int32)
        identity = document_id(tokens, self.tokenizer_hash)
        return Document(
            identity, text.source, tokens, self.tokenizer_hash, placed_alone(identity, tokens, self.config)
        )


@dataclass(frozen=True)
class Moment:
    """What had been done and used at a moment of a run. Processor seconds, unlike the clock, hardly depend on
    what else the machine does."""

    num_done: int
    clock: float
    driver_seconds: float
    other_seconds: float
    """of Ray and its tasks"""
    private_bytes: int

    @classmethod
    def now(cls, num_done: int) -> "Moment":
        others = 0.0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                others += sum(process.cpu_times()[:2])
        return cls(num_done, time.perf_counter(), time.process_time(), others, private_bytes())

    def until(self, later: "Moment") -> dict[str, float]:
        """Rates between two moments."""
        num_done = later.num_done - self.num_done
        driver, others = later.driver_seconds - self.driver_seconds, later.other_seconds - self.other_seconds
        return {
            "items_per_s_once_settled": round(num_done / (later.clock - self.clock), 1),
            "driver_cpu_ms_per_item": round(1e3 * driver / num_done, 3),
            "other_cpu_ms_per_item": round(1e3 * others / num_done, 3),
            "items_per_s_of_2_free_cores": round(2 * num_done / (driver + others), 1),
            "driver_bytes_per_trajectory": round((later.private_bytes - self.private_bytes) / num_done),
        }


class StubPool:
    """Finishes every item at once, as parts whose files are one file of the store."""

    num_workers = 1

    def __init__(self, store: Store, num_items: int) -> None:
        self._file = write_part(
            store.location, part_id="stub", kind="trajectory", run_id="stub", tables={"effects": []}
        )
        self._location, self._num_items = store.location, num_items
        self.num_done = 0
        self.first_done = 0.0
        self.settled = Moment.now(0)

    def model_size(self) -> ModelSize:
        return ModelSize(1, 1, 1)

    def batch_tokens(self) -> int:
        return 8192

    def probes(self) -> Sequence[NamedProbe]:
        return [NamedProbe("stub", Probe(1.0, (0.0,) * 12, (0.0,), 0.0, "here"))]

    def admit_with(self, check: object) -> None:
        """Nobody joins."""

    def write_embeddings(self) -> Part:
        return replace(self._file, part_id="embeddings", kind="embeddings", run_id="bench")

    def measure(self, items: Iterable[WorkItem]) -> Iterator[Finished]:
        for item in items:
            if item.purpose != "keep":
                yield Finished(item, seconds=1e-3)
                continue
            self.num_done += 1
            self.first_done = self.first_done or time.perf_counter()
            if self.num_done == int(_SETTLED * self._num_items):
                self.settled = Moment.now(self.num_done)
            part = replace(self._file, part_id=item.unit.part_id, kind=item.unit.kind, run_id="bench")
            yield Finished(item, (part,), seconds=1e-3)

    def note(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing to give back."""


def private_bytes() -> int:
    """Anonymous memory of this process, which does not count what Ray shares between processes."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) * 1024


def drive(folder: Path, num_documents: int) -> dict[str, Any]:
    """One run over synthetic documents, in figures."""
    store = create_store(str(folder / "store"))
    vocabulary = vocabulary_part_id(PROVENANCE.tokenizer_hash)
    store.commit(
        [write_part(store.location, part_id=vocabulary, kind="vocabulary", run_id="bench", tables={})]
    )
    pool = StubPool(store, num_documents * COLLECT.trajectories_per_document)
    maker = SyntheticMaker(None, PROVENANCE.tokenizer_hash, CORPUS)
    planner = DocumentPlanner(maker, COLLECT, PROVENANCE, ModelLimits("stub", 4096, VOCABULARY))
    texts = [Number(f"synthetic/{i}", i) for i in range(num_documents)]
    before = private_bytes()
    stream = CorpusStream(texts, planner, SplitAssigner(CORPUS, {}), Skipped(), DocumentTasks())
    last_planned = 0.0

    class Watched:
        """The stream, and when it planned its last document."""

        provenance, estimator, lensnet_identity = stream.provenance, stream.estimator, None
        assigner, spread = stream.assigner, stream.spread

        def __iter__(self) -> Iterator[Any]:
            nonlocal last_planned
            yield from stream
            last_planned = time.perf_counter()

    source = SimpleNamespace(
        name="stub", revision=None, tokenizer_hash=PROVENANCE.tokenizer_hash, embedding_dim=64
    )
    started = time.perf_counter()
    summary = run_collection(
        store, Watched(), lambda _: pool, config=COLLECT, model=ModelConfig(), gists=GistConfig(),
        source=source, resolved_config="{}", corpus=CORPUS, left_out=Skipped(), progress=Silent(),
    )  # type: ignore[arg-type]  # fmt: skip
    seconds, ended = time.perf_counter() - started, Moment.now(pool.num_done)
    return {
        "num_documents": num_documents,
        "num_items": summary.num_trajectories,
        "items_per_s": round(summary.num_trajectories / seconds, 1),
        **pool.settled.until(ended),
        "driver_bytes_before": before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds_to_first_measured": round(pool.first_done - started, 2),
        "first_measured_before_last_planned": pool.first_done < last_planned,
    }


def tokenise(num_texts: int, rounds: int) -> dict[str, Any]:
    """Documents a second from real text with one and with two tasks at once."""
    texts = in_seeded_order(read_corpus([STDLIB], Skipped()), 0)[:num_texts]
    content = [TextInMemory(text.source, whole_text(text)) for text in texts]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        [one.text for one in content[:40]], BpeTrainer(vocab_size=2000, show_progress=False)
    )
    maker = DocumentMaker(PreTrainedTokenizerFast(tokenizer_object=bpe), "bpe", CORPUS)
    planner = DocumentPlanner(maker, COLLECT, PROVENANCE, ModelLimits("stub", 4096, VOCABULARY))
    batches = [content[i : i + 4] for i in range(0, len(content), 4)]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds + 1):
        for at_once in (1, 2):
            started = time.perf_counter()
            for _ in DocumentTasks(at_once).map(planner, batches):
                pass
            if number:  # the first round starts processes
                seconds[at_once].append(time.perf_counter() - started)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "tokenise_documents_per_s": {n: round(len(content) / min(all_), 1) for n, all_ in seconds.items()},
        "tokenise_speedup": round(statistics.median(ratios), 2),
        "tokenise_speedups": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents: minutes")
    parser.add_argument("--documents", type=int, help="synthetic documents")
    arguments = parser.parse_args()
    num_documents = arguments.documents or (12_000 if arguments.quick else 1_000_000)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        print("tokenising with one and two tasks at once", flush=True)
        speed = tokenise(*((48, 3) if arguments.quick else (200, 5)))
        print(json.dumps(speed), flush=True)
        print(f"driving {num_documents} synthetic documents", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            driven = drive(Path(folder), num_documents)
    finally:
        ray.shutdown()
    result = {
        **driven, **speed, "processor": processor_name(), "cpus": os.cpu_count(), "quick": arguments.quick,
        "load": round(os.getloadavg()[0], 1), "collect": asdict(COLLECT), "num_tokens": NUM_TOKENS,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = "driver-quick" if arguments.quick else "driver"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
