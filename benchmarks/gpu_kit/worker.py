"""One step in a process of its own: imports everything first, says so, then waits for the step's name.

So the next worker gets ready while a step runs, and a step that hangs, breaks the device or runs out of
memory takes nothing with it but its process.
"""

import ctypes
import json
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import torch
import transformers

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.records import append

PR_SET_PDEATHSIG = 1


def main() -> None:
    ready, root, results = map(Path, sys.argv[1:4])
    # Nobody may be left with the GPU when the whole run is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    import_module("mctrace.collect.measuring.evaluator")
    import_module("mctrace.base_model.causal_lm")
    transformers.logging.set_verbosity_error()
    ready.touch()
    line = sys.stdin.readline()
    if not line:
        return  # nothing left to do
    order = json.loads(line)
    try:
        _run(order["step"], root, results, order["toy"], time.monotonic() + order["seconds"])
    except BaseException as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
        append(results, {"kind": "error", "step": order["step"], "error": why})
        sys.exit(1)


def _run(step: str, root: Path, results: Path, toy: bool, deadline: float) -> None:
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not toy:
        raise RuntimeError("torch sees no CUDA device here; --toy rehearses without one")
    # float32 means float32: labels are compared to 1e-4 nats.
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    context = StepContext(step, root, results, device, toy, deadline)
    import_module(f"benchmarks.gpu_kit.steps.{step}").run(context)


if __name__ == "__main__":
    main()
