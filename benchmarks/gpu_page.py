"""From the GPU kit's results (`results/gpu-*.jsonl`) to docs/gpu-results.md; without any it says so."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.records import Record, read
from benchmarks.gpu_kit.registry import STEPS

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "gpu-results.md"
_INTRO = """# GPU results

Written by `python -m benchmarks.gpu_page` from `benchmarks/results/gpu-NAME.jsonl`; do not edit. How to make
such a file: [gpu.md](gpu.md).
"""
_NONE = """
**There are no results yet**: nothing of mctrace has run on a GPU so far. The kit is ready and rehearsed.
"""

Column = tuple[str, Callable[[Record], str]]


def page(runs: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """The whole page as Markdown, a section per file."""
    if not runs:
        return _INTRO + _NONE
    return "\n".join([_INTRO, *(line for name, records in runs for line in _run(name, records))])


def _run(name: str, records: Sequence[Record]) -> Iterator[str]:
    machine = next((r for r in records if r["kind"] == "machine"), {})
    device = next((r for r in records if r.get("case") == "device"), {})
    packages = machine.get("packages") or {}
    gpu = machine.get("gpu") or {}
    about = [
        device.get("name", "no device"), f"driver {gpu.get('driver_version', 'unknown')}",
        f"CUDA {device.get('cuda', 'none')}", *(f"{name} {number}" for name, number in packages.items()),
        f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores",
    ]  # fmt: skip
    yield f"## {name}\n"
    yield f"{'; '.join(about)}. Started {machine.get('started', 'at a time unknown')}.\n"
    if machine.get("toy"):
        yield "**A rehearsal in tiny: these are no measurements.**\n"
    yield _table(_of(records, "outcome"), _OUTCOMES)
    for step in STEPS:
        found = [r for r in _of(records, "result") if r["step"] == step.name]
        if found:
            yield f"### {step.name}: {step.answers}\n"
        for title, fits, columns in _TABLES[step.name]:
            if rows := [r for r in found if fits(r)]:
                yield f"{title}\n"
                yield _table(rows, columns)


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def _table(rows: Sequence[Record], columns: Sequence[Column]) -> str:
    lines = [[name for name, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _text(*path: str) -> Callable[[Record], str]:
    return lambda record: _shown(_at(record, path))


def _number(*path: str, scale: float = 1.0, unit: str = "", digits: int = 3) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        value = _at(record, path)
        return "" if value is None else f"{value * scale:.{digits}g}{unit}"

    return cell


def _share(*path: str) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        value = _at(record, path)
        return "" if value is None else f"{value:.0%}"

    return cell


def _at(record: Record, path: Sequence[str]) -> Any:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _shown(value: Any) -> str:
    return "" if value is None else str(value).replace("torch.", "").replace("|", "/")


def _case(*names: str) -> Callable[[Record], bool]:
    return lambda record: record["case"] in names


def _is_of_all(case: str, record: Record) -> bool:
    return bool(record["case"] == case and record["corpus"] == "all")


def _differences(*path: str) -> tuple[Column, ...]:
    return (
        ("labels", _text(*path, "num_labels")),
        ("largest, label", _number(*path, "label_max", unit=" nats", digits=2)),
        ("largest, token", _number(*path, "token_max", unit=" nats", digits=2)),
        ("Spearman", _number(*path, "spearman", digits=4)),
        ("same sign", _share(*path, "same_sign")),
        ("spread of labels", _number(*path, "label_std", unit=" nats", digits=2)),
    )


def _heads(record: Record) -> str:
    return "grouped" if record["case"] == "grouped" else "as many as the queries'"


_SECONDS = ("ms", _number("seconds", scale=1e3))
_OUTCOMES: tuple[Column, ...] = (
    ("step", _text("step")), ("status", _text("status")), ("seconds", _number("seconds")),
    ("SM clock, at most", _number("most", "clocks.sm", unit=" MHz", digits=4)), ("why", _text("why")),
)  # fmt: skip
_ATTENTION = (("attention", _text("attention", "kernel")), ("refused", _text("attention", "refused")))
_RATES: tuple[Column, ...] = (
    ("seconds", _number("seconds")), ("tokens/s", _number("tokens_per_s")),
    ("of the matrix rate", _share("share_of_matmul_rate")), ("batch tokens", _text("in_the_end")),
    ("peak", _number("peak_bytes", scale=2**-30, unit=" GiB")),
)  # fmt: skip
_TABLES: dict[str, list[tuple[str, Callable[[Record], bool], Sequence[Column]]]] = {
    "machine": [
        ("Rates", _case("matmul", "copy", "launch"), (
            ("what", _text("case")), ("dtype", _text("dtype")), ("precision", _text("precision")),
            ("TFLOP/s", _number("flops_per_s", scale=1e-12)), ("GB/s", _number("bytes_per_s", scale=1e-9)),
            ("µs", _number("seconds", scale=1e6)),
        )),
    ],
    "labels": [
        ("Against the naive evaluation on the same device", _case("against naive"), (
            ("map", _text("map")), ("dtype", _text("dtype")), *_differences(),
            ("noise: no-op", _number("noise", "no_op", unit=" nats", digits=2)),
            ("noise: regrouped", _number("noise", "regrouped", unit=" nats", digits=2)), *_ATTENTION,
        )),
        ("Against float32", _case("bfloat16 against float32", "against the CPU's float32"), (
            ("what", _text("case")), ("map", _text("map")), ("dtype", _text("dtype")), *_differences(),
        )),
    ],
    "architectures": [
        ("Against the naive evaluation on the same device", _case("labels"), (
            ("architecture", _text("architecture")), ("dtype", _text("dtype")),
            *_differences("against_naive"),
            ("against the CPU's float32", _number("against_cpu", "token_max", unit=" nats", digits=2)),
            *_ATTENTION,
        )),
    ],
    "evaluator": [
        ("A 1B Llama with random weights, bfloat16", _case("speed"), (
            ("map", _text("map")), ("N", _text("N")), ("R", _text("R")), ("labels", _text("num_labels")),
            ("labels/s", _number("labels_per_s")), ("against naive", _number("speedup_over_naive", unit="x")),
            ("of the matrix rate", _share("share_of_matmul_rate")), ("passes", _text("num_passes")),
            ("batch tokens", _text("batch_tokens_in_the_end")),
            ("peak", _number("peak_bytes", scale=2**-30, unit=" GiB")),
        )),
        ("Against the naive evaluation on the same device", _case("labels"), (*_differences(), *_ATTENTION)),
    ],
    "gradient": [
        ("SmolLM2's estimates", _case("against exact", "against the CPU's float32"), (
            ("what", _text("case")), ("map", _text("map")), ("dtype", _text("dtype")), *_differences(),
        )),
        ("A 1B Llama with random weights, bfloat16", _case("speed"), (
            ("map", _text("map")), ("N", _text("N")), ("R", _text("R")), ("actions", _text("num_actions")),
            ("seconds", _number("seconds")), ("per action, ms", _number("seconds_per_action", scale=1e3)),
            ("exact, ms", _number("exact_seconds_per_action", scale=1e3)),
            ("cost over exact", _number("cost_over_exact")),
            ("peak", _number("peak_bytes", scale=2**-30, unit=" GiB")),
        )),
    ],
    "profile": [
        ("Share of the time on the device by kind of kernel", _case("kernels"), (
            *((kind, _share("share", kind)) for kind in (
                "matmul", "attention", "reduction (norms)", "elementwise", "copy", "loss", "other", "idle",
            )), ("kernels", _text("num_kernels")), ("seconds", _number("span")),
        )),
        ("Seconds inside parts of the network, which contain each other", _case("parts"), tuple(
            (part, _number(part)) for part in (
                "attention block", "feed-forward block", "norms", "rotary", "head",
            )
        )),
    ],
    "lensnet": [
        ("A forward pass", _case("forward"), (
            ("embedding width", _text("embedding_dim")), ("entries", _text("N")), ("way", _text("way")),
            ("precision", _text("precision")), _SECONDS,
            ("from eager", _number("largest_difference", digits=2)),
            ("compiled in", _number("compile_seconds", unit=" s")), ("error", _text("error")),
        )),
    ],
    "attention": [
        ("Right?", _case("right"), (
            ("kernel", _text("kernel")), ("shape", _text("shape")), ("dtype", _text("dtype")),
            ("error of the output", _number("output_error", digits=2)),
            ("of the log-sum-exp", _number("lse_error", digits=2)), ("error", _text("error")),
        )),
        ("Fast?", _case("speed", "grouped"), (
            ("kernel", _text("kernel")), ("shape", _text("shape")), ("keys' heads", _heads),
            ("dtype", _text("dtype")), ("rows, heads, queries, keys", _text("size")),
            _SECONDS, ("TFLOP/s", _number("flops_per_s", scale=1e-12)), ("error", _text("error")),
        )),
    ],
    "training": [
        ("A step's phases", _case("phases"), (
            ("embedding width", _text("embedding_dim")), ("actions", _text("num_actions")),
            *((f"{phase}, ms", _number("seconds", phase, scale=1e3)) for phase in (
                "forward", "loss", "backward_loss", "backward_network", "optimiser",
            )), ("loss of the step", _share("loss_share_of_step")),
        )),
        ("The ranking term", _case("ranking"), (
            ("actions", _text("num_actions")), ("exact, ms", _number("exact", scale=1e3)),
            ("sampled, ms", _number("sampled", scale=1e3)),
            ("extra memory", _number("peak_extra_bytes", scale=2**-20, unit=" MiB")),
        )),
        ("A whole step in bfloat16", _case("step"), (
            ("way", _text("way")), ("snapshots", _text("rows")), _SECONDS,
            ("snapshots/s", _number("samples_per_s")),
            ("peak", _number("peak_bytes", scale=2**-30, unit=" GiB")), ("waits", _text("waits")),
        )),
    ],
    "memory": [
        ("By the size of a batch", _case("batch"), (("asked", _text("asked")), *_RATES)),
        ("By the logits held at once", _case("logits"), (("logits", _text("per_chunk")), *_RATES)),
        ("Running out of memory", _case("out of memory"), (
            ("memory to spare", _number("spare_bytes", scale=2**-20, unit=" MiB", digits=5)),
            ("batch tokens in the end", _text("in_the_end")),
            ("largest difference", _number("label_max", unit=" nats", digits=2)), ("error", _text("error")),
        )),
    ],
    "gists": [
        ("Seconds of a training step", _case("pace"), (
            ("early", _number("early_s")), ("tokens", _text("early_tokens")), ("late", _number("late_s")),
            ("tokens", _text("late_tokens")), ("validation", _number("validation_s")),
            ("steps that fit", _text("num_steps")), ("of the preset's", _text("preset_steps")),
        )),
        ("The training; KL and loss of copies less deletion's, nats per token", _case("training"), (
            _SECONDS, ("steps", _text("num_steps")), ("ending", _text("ending")),
            ("best step", _text("best_step")),
            ("KL", _number("less_deleted")), ("copies", _number("copy_less_deleted")),
            ("peak", _number("peak_bytes", scale=2**-30, unit=" GiB")),
        )),
        *(
            (f"Loss of {what} against deletion's, nats per token", partial(_is_of_all, case), (
                ("level", _text("level")), ("in place of a span", _text("gist")),
                ("documents", _text("num_documents")), ("above the full text", _number("delta_nll")),
                *((bound, _number("against_deletion", bound)) for bound in ("mean", "low", "high")),
                ("median", _number("median")),
            ))
            for case, what in (("next tokens", "the next tokens"), ("copy test", "a copy"))
        ),
    ],
}  # fmt: skip


def main() -> None:
    files = sorted((HERE / "results").glob("gpu-*.jsonl"))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page([(file.stem.removeprefix("gpu-"), list(read(file))) for file in files]))


if __name__ == "__main__":
    main()
