"""`python -m benchmarks.gpu_kit --minutes 8 --out DIR`: everything worth knowing of a GPU, in order of worth.

Run from the folder `part-0` that `make gpu-kit` built, on a machine with torch, transformers, safetensors and
numpy. Results are lines of JSON in DIR/results.jsonl, there the moment they exist; DIR/log.txt has what the
steps printed. No step ends another.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.gpu_kit.registry import STEPS
from benchmarks.gpu_kit.runner import open_runner


def main() -> None:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_kit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="steps: " + "; ".join(f"{step.name} ({step.answers})" for step in STEPS),
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of everything [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("gpu-kit-results"), help="folder of the results")
    parser.add_argument("--steps", default=",".join(names), help="comma-separated, run in the kit's order")
    parser.add_argument("--toy", action="store_true", help="the same in tiny, on a CPU if need be")
    arguments = parser.parse_args()
    asked = [name.strip() for name in arguments.steps.split(",")]
    if unknown := sorted(set(asked) - set(names)):
        parser.error(f"--steps: there is no {', '.join(unknown)}; there are {', '.join(names)}")
    root = Path(__file__).parents[3]
    if not (root / "part-0" / "manifest.json").is_file():
        parser.error("run it from the folder part-0 of a kit that `make gpu-kit` built")
    with open_runner(root, arguments.out.resolve(), arguments.minutes, arguments.toy) as runner:
        fine = runner.run([step for step in STEPS if step.name in asked])
    sys.exit(not fine)


if __name__ == "__main__":
    main()
