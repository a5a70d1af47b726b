"""`mctrace evaluate --closed-loop`: the evaluation in `analysis/closed_loop/`, printed as table or JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mctrace.analysis.closed_loop.evaluation import ClosedLoopTask, evaluate_closed_loop
from mctrace.analysis.closed_loop.summary import PolicySummary
from mctrace.cli.config import PipelineConfig
from mctrace.cli.output import print_table
from mctrace.cli.progress import make_progress
from mctrace.datasets.store.schemas import SPLITS
from mctrace.ranges import check_choice
from mctrace.train.evaluation.statistics import Interval


def closed_loop_command(
    config: PipelineConfig,
    checkpoints: Sequence[Path],
    split: str,
    out: Path | None,
    as_one_object: bool,
    console: Console,
) -> None:
    """Run the closed loop into `out`, the first checkpoint's run folder by default, and print its table."""
    check_choice("--split", split, SPLITS)
    listener = Console(stderr=True, soft_wrap=True) if as_one_object else console
    folder = out or (checkpoints[0].parent if checkpoints else Path("closed_loop"))
    result = evaluate_closed_loop(
        closed_loop_task(config, split, checkpoints),
        folder,
        make_progress(listener),
        lambda sentence: listener.print(sentence, highlight=False),
    )
    if as_one_object:
        print(json.dumps(result.answer))
        return
    for group, policies in result.summaries.items():
        _print(group, policies, config, console)


def closed_loop_task(config: PipelineConfig, split: str, checkpoints: Sequence[Path] = ()) -> ClosedLoopTask:
    """The parts of the configuration that a closed loop depends on."""
    return ClosedLoopTask(
        model=config.model,
        gists=config.gists,
        tree=config.tree,
        corpus=config.corpus,
        split=split,
        store_uri=config.store.uri,
        protected_tail=config.collect.protected_tail,
        batch_tokens=config.collect.batch_tokens,
        allocator=config.allocator,
        loop=config.closed_loop,
        checkpoints=tuple(checkpoints),
    )


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
