"""Runs the kit's steps one after another within a time limit, each in a process that can be ended.

Neither torch nor CUDA is touched here: whatever breaks, breaks in a worker, and this goes on.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.gpu_kit.machine_facts import ClockLog, machine_facts
from benchmarks.gpu_kit.records import append, read
from benchmarks.gpu_kit.registry import KitStep
from benchmarks.gpu_kit.weights import missing_pieces

STARTUP_S = 150
"""for a worker's imports, slow on a machine that reads its packages for the first time"""
_LEAST_S = 5
"""a step with less time than this is not begun"""
_POLL_S = 0.05
_TOY_PATIENCE = 4
"""times a step's limit in a rehearsal, which may have a busy CPU only"""


@dataclass
class StepProcess:
    """A process that has imported, or is about to have, and waits for a step."""

    process: subprocess.Popen[bytes]
    ready: Path

    @property
    def is_ready(self) -> bool:
        return self.ready.exists()

    def retire(self) -> None:
        """Where it was not needed: without a step it returns by itself once it has imported."""
        if self.is_ready and self.process.stdin is not None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.end()
        else:
            self.end()

    def end(self) -> None:
        """Its stack goes to the log first; its children, compilers for one, end with it."""
        for number, patience_s in ((signal.SIGABRT, 2.0), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue  # after SIGKILL: stuck in the driver, and nobody can end it


@dataclass
class Runner:
    """Everything of one run of the kit."""

    root: Path
    out: Path
    deadline: float
    """by time.monotonic()"""
    toy: bool
    log: IO[bytes]
    scratch: Path
    num_started: int = 0
    workers: list[StepProcess] = field(default_factory=list)
    clocks: ClockLog | None = None

    @property
    def results(self) -> Path:
        return self.out / "results.jsonl"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, steps: Sequence[KitStep]) -> bool:
        """All of them that there is time for; whether none failed. Outcomes are kept beside results."""
        append(self.results, {"kind": "machine", "toy": self.toy, **machine_facts()})
        spare = self._start()
        fine = True
        for number, step in enumerate(steps):
            outcome, used = self._run_step(step, spare, is_last=number == len(steps) - 1)
            if used is not None:
                spare = used
            append(self.results, {"kind": "outcome", "step": step.name, **outcome})
            print(json.dumps({"step": step.name, **outcome}), flush=True)
            fine = fine and outcome["status"] in ("ok", "missing", "no time")
        if spare.process.poll() is None:
            spare.retire()
        return fine

    def _run_step(
        self, step: KitStep, worker: StepProcess, is_last: bool
    ) -> tuple[dict[str, object], StepProcess | None]:
        """The step's outcome, and the next worker where this one was used up."""
        missing = missing_pieces(self.root) if step.needs_smollm2 else []
        if missing:
            return {"status": "missing", "why": f"not here yet: {', '.join(missing)}"}, None
        if self.seconds_left < _LEAST_S:
            return {"status": "no time"}, None
        if not self._wait_until_ready(worker):
            worker.end()
            return {
                "status": "failed",
                "why": f"imports took more than {STARTUP_S} s or broke",
            }, self._start()
        following = worker if is_last else self._start()
        started = time.monotonic()
        limit_s = min(step.limit_s * (_TOY_PATIENCE if self.toy else 1), self.seconds_left)
        order = json.dumps({"step": step.name, "toy": self.toy, "seconds": limit_s}) + "\n"
        status = self._status(worker, order, limit_s)
        outcome = {"status": status, "seconds": round(time.monotonic() - started, 2)}
        if self.clocks:
            outcome |= self.clocks.since(started)
        if status != "ok":
            outcome["why"] = self._why(step)
        return outcome, following

    def _status(self, worker: StepProcess, order: str, limit_s: float) -> str:
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # its exit code says more
            worker.process.stdin.write(order.encode())
            worker.process.stdin.close()
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends:
            code = worker.process.poll()
            if code is not None:
                worker.end()  # whatever it started
                return "ok" if code == 0 else f"failed, exit code {code}"
            time.sleep(_POLL_S)
        worker.end()
        return f"ended after {limit_s:.0f} s"

    def _wait_until_ready(self, worker: StepProcess) -> bool:
        ends = time.monotonic() + min(STARTUP_S, self.seconds_left)
        while not worker.is_ready and time.monotonic() < ends and worker.process.poll() is None:
            time.sleep(_POLL_S)
        return worker.is_ready

    def _why(self, step: KitStep) -> str | None:
        errors = [r for r in read(self.results) if r["kind"] == "error" and r["step"] == step.name]
        return errors[-1]["error"] if errors else None

    def _start(self) -> StepProcess:
        """A process of its own session, so that its children can be ended with it."""
        self.num_started += 1
        ready = self.scratch / f"ready-{self.num_started}"
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.gpu_kit.worker",
                str(ready),
                str(self.root),
                str(self.results),
            ],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env=_environment(self.root),
        )
        worker = StepProcess(process, ready)
        self.workers.append(worker)
        return worker


def _environment(root: Path) -> Mapping[str, str]:
    """No network, stack traces of crashes, and compiled kernels kept for the next call on this machine."""
    caches = root / "cache"
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }


@contextmanager
def open_runner(root: Path, out: Path, minutes: float, toy: bool) -> Iterator[Runner]:
    """A runner whose processes end with the block, however it is left."""
    out.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Path(tempfile.mkdtemp(prefix="gpu-kit-"))
    deadline = time.monotonic() + 60 * minutes
    with (out / "log.txt").open("ab") as log, ClockLog.watching(scratch / "clocks") as clocks:
        runner = Runner(root, out, deadline, toy, log, scratch, clocks=clocks)
        try:
            yield runner
        finally:
            for worker in runner.workers:
                if worker.process.poll() is None:
                    worker.end()
            shutil.rmtree(scratch, ignore_errors=True)
