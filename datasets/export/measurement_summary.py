"""How an export's labels were measured, run by run, as lines of its dataset card."""

from collections.abc import Mapping
from typing import Any

CITATION = """@misc{mctrace_labels,
  title = {Counterfactual context labels},
  author = {{The mctrace authors}},
  note = {measured with mctrace %s, version %s of a trace store}
}"""
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
}
_FIGURES = ("spearman", "sign_agreement", "top_k_recall", "mae")


def size_category(num_rows: int) -> str:
    """The hub's name for a number of rows."""
    return next((name for most, name in _SIZES.items() if num_rows < most), "10M<n<100M")


def measurement_lines(about: Mapping[str, Any]) -> list[str]:
    """Models, gists, horizons, estimators and calibrations of an export's labels, and how to cite it."""
    estimators = ", ".join(f"{count} {name}" for name, count in sorted(about["num_by_estimator"].items()))
    horizons = ", ".join(str(horizon) for horizon in about["horizons"])
    lines = ["", "## Measurement", ""]
    lines += [
        f"Labels by estimator: {estimators}. Horizon: {horizons} tokens.",
        "",
        "| run | model | gists | dtype | texts | noise floor | calibration against exact labels |",
        "|" + " --- |" * 7,
    ]
    for run in about["runs"]:
        texts = ", ".join((run.get("config") or {}).get("corpus", {}).get("paths", ()))
        cells = [
            str(run["run_id"])[:12], run["model_name"], run["gist_source"], run["dtype"], texts,
            _noise_floor(run["noise_floor"]), _agreement(run["calibration"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return [
        *lines, "",
        "`mctrace-export.json` has each run's whole configuration, its calibration by action and level, and",
        "the versions of the software.",
        "", "## Citation", "", "```bibtex", CITATION % (about["mctrace"], about["store_version"]), "```",
    ]  # fmt: skip


def _agreement(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "none needed"
    figures = [f"{name} {_figure(found[name])}" for name in _FIGURES if found.get(name) is not None]
    return f"{found['num_actions']} actions: {', '.join(figures)}"


def _noise_floor(found: Mapping[str, float | None] | None) -> str:
    """The largest difference that the order of arithmetic alone made, nats per token."""
    return _figure(max((value for value in (found or {}).values() if value is not None), default=None))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _cell(value: object) -> str:
    """One line without what would end the table's cell; a local path says only its last name."""
    text = " ".join(str("" if value is None else value).replace("|", "/").split())
    return ", ".join(part.rsplit("/", 1)[-1] if part.startswith("/") else part for part in text.split(", "))
