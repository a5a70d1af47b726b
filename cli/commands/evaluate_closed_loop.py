"""`mctrace evaluate --closed-loop`: policies and checkpoints compared in `analysis/closed_loop/`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mctrace.analysis.closed_loop.evaluation import ClosedLoopTask
from mctrace.analysis.closed_loop.evaluation import evaluate_closed_loop as run_closed_loop
from mctrace.cli.configuration import PipelineConfig
from mctrace.cli.display.closed_loop import print_closed_loop
from mctrace.cli.display.json_answer import print_json
from mctrace.cli.display.progress import make_progress


def evaluate_closed_loop(
    config: PipelineConfig,
    checkpoints: Sequence[Path],
    split: str,
    out: Path | None,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Run the closed loop into `out`, the first checkpoint's run folder by default, and print its results."""
    messages = Console(stderr=True, soft_wrap=True) if as_json else console
    folder = out or (checkpoints[0].parent if checkpoints else Path("closed_loop"))
    task = ClosedLoopTask(
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
    result = run_closed_loop(
        task, folder, make_progress(messages), lambda sentence: messages.print(sentence, highlight=False)
    )
    if as_json:
        print_json(result.answer)
        return
    for group, policies in result.summaries.items():
        print_closed_loop(group, policies, config.closed_loop, config.tree.block_size, console)
