"""`make bench-attribute`: what every block of a text is worth for eight stretches after it, against captum.

The same values three ways, interleaved in one process: `attribute`, one pass a block on kept keys and values;
captum's feature ablation, once for each stretch; and captum with a forward function, written by hand, that
returns all stretches from one pass. Times are medians over rounds. The last line printed is one JSON object,
which is also written to benchmarks/results/.
"""

import argparse
import json
import statistics
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.captum_ablation import ablated_by_captum, ablated_by_hand
from benchmarks.machine import processor_name
from mctrace.attribution.attribute import attribute
from mctrace.attribution.text_model import TextModel
from mctrace.attribution.text_units import tokenise

RESULT = Path(__file__).parent / "results" / "attribute-cpu.json"
NUM_STRETCHES, STRETCH = 8, 32
"""R stretches of so many tokens each"""
BLOCK = 32


def measure(model: TextModel, num_tokens: int, num_rounds: int) -> dict[str, Any]:
    """Seconds and values of the three ways on about `num_tokens` tokens of Python's textwrap."""
    source = tokenise(model.tokenizer, Path(textwrap.__file__).read_text(encoding="utf-8"))
    text = source.text_between(0, num_tokens)
    target = source.text_between(num_tokens, num_tokens + NUM_STRETCHES * STRETCH)
    ids = [tokenise(model.tokenizer, part).tokens for part in (text, target)]
    tokens_T = torch.from_numpy(np.concatenate(ids))
    begin = len(ids[0])
    stretches = [(begin + i * STRETCH, begin + (i + 1) * STRETCH) for i in range(len(ids[1]) // STRETCH)]
    units = [(first, min(first + BLOCK, begin)) for first in range(0, begin, BLOCK)]
    network = model.model.network

    def attributed() -> Tensor:
        found = attribute(text, model=model, unit="block", block_size=BLOCK, target=target)
        return torch.stack([torch.from_numpy(found.worth_for(*stretch)) for stretch in stretches])

    ways: dict[str, Callable[[], Tensor]] = {
        "attribute": attributed,
        "captum": lambda: torch.stack(
            [ablated_by_captum(network, tokens_T, units, stretch) for stretch in stretches]
        ),
        "captum_by_hand": lambda: ablated_by_hand(network, tokens_T, units, stretches),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, Tensor] = {}
    for _ in range(num_rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            values[name] = way()
            taken[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    off = {
        name: float((values[name] - values["attribute"]).abs().max()) for name in ("captum", "captum_by_hand")
    }
    return {
        "num_tokens": len(tokens_T), "parts": len(units), "stretches": len(stretches),
        "stretch_tokens": STRETCH, "rounds": num_rounds, "seconds": seconds,
        **{f"{name}_vs_attribute": seconds[name] / seconds["attribute"] for name in off},
        "max_abs_diff_nats": off,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a shorter text, once; kept only with --out")
    parser.add_argument("--model", default="smollm2-135m", help="alias, folder or hub id")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"JSON file [benchmarks/results/{RESULT.name}]"
    )
    arguments = parser.parse_args()
    model = TextModel.load(arguments.model, device="cpu")
    num_tokens, num_rounds = (256, 1) if arguments.quick else (512, 3)
    result = {
        **measure(model, num_tokens, num_rounds),
        "model": model.name, "dtype": "float32", "quick": arguments.quick,
        "machine": {
            "kind": "cpu", "device": processor_name(), "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }  # fmt: skip
    out = arguments.out or (None if arguments.quick else RESULT)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
