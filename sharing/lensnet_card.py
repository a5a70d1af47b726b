"""Model card of a LensNet: the README that a hub shows, from what its run and its evaluation recorded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mctrace.sharing.shared_folder import read_json
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, load_checkpoint
from mctrace.train.run_files import EVALUATION_FILE

_METRICS = ("utility_correlation", "ranking_accuracy", "mse")
CITATION = """@software{mctrace,
  title = {mctrace: counterfactual trace logs for context compression},
  author = {{The mctrace authors}},
  version = {%s}
}"""


def lensnet_card(folder: Path, repo: str) -> str:
    """README.md for the checkpoint in `folder`; its run's evaluation.json gives the table of scores."""
    from mctrace import __version__

    network, info = load_checkpoint(folder)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    absent = "" if info.absence == "off" else f", absent blocks shown as {info.absence}"
    return f"""---
library_name: mctrace
tags:
- mctrace
- lensnet
---

# LensNet {repo.partition("/")[2]}

Scores every entry of a language model's working context (tokens, gists): which deserve more detail, which
less. The weights are safetensors, and no code comes with them.

```python
from mctrace import load_checkpoint

network, info = load_checkpoint("{repo}")
```

## Network

`{info.network.name}`, {num_parameters:,} parameters, for embeddings of width {info.embedding_dim}, \
K = {info.block_size}, levels 0 to {info.max_level}{absent}. One unit of score is \
{info.utility_scale:.6g} nats per token.

{_training(info)}

{_evaluation(folder)}

## Citation

```bibtex
{CITATION % __version__}
```
"""


def _training(info: CheckpointInfo) -> str:
    training, optimiser = info.training, info.training.get("optimiser", {})
    labels = ", ".join(f"{name} `{value}`" for name, value in info.dataset.items() if name != "uri")
    metrics = info.metrics or {}
    values = ", ".join(f"{name} {metrics[name]:.4g}" for name in ("loss", *_METRICS) if name in metrics)
    return f"""## Training

Step {info.step} of {optimiser.get("total_steps")}, batches of {training.get("batch_size")} snapshots, \
objective {training.get("objective", {}).get("name")}, target `{info.target}`, seed {training.get("seed")}. \
Labels: {labels}.

On the validation split at that step: {values or "not evaluated"}.

```json
{json.dumps(training, indent=1)}
```"""


def _evaluation(folder: Path) -> str:
    """Table of evaluation.json, which lies in the checkpoint's run folder."""
    path = folder.parent / EVALUATION_FILE
    if not path.is_file():
        return "Not yet judged on held-out documents (`mctrace evaluate`)."
    answer = read_json(path)
    scorers: Mapping[str, Mapping[str, Any]] = answer.get("scorers", {})
    metrics = [metric for metric in _METRICS if any(metric in found for found in scorers.values())]
    rows = [[name, *(_cell(found.get(metric)) for metric in metrics)] for name, found in scorers.items()]
    table = "\n".join(
        f"| {' | '.join(row)} |" for row in [["scorer", *metrics], ["---"] * (len(metrics) + 1), *rows]
    )
    return f"""## Agreement with measured labels, {answer.get("split")} split

{answer.get("num_snapshots")} snapshots; means over documents with 95% bootstrap intervals. Agreement with \
labels is not yet a better context: that is what a closed loop measures.

{table}"""


def _cell(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
